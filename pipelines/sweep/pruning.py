"""Pruning in a sweep that was interrupted."""

from collections.abc import Callable
from typing import Any


class WithoutInterrupted:
    """An Optuna pruner that does not see interrupted trials.

    Successive halving compares a trial with all others that reached its rung, whatever became of them. An interrupted trial would
    compete beside its retry.
    """

    def __init__(self, pruner: Any, is_interrupted: Callable[[Any], bool]) -> None:
        self._pruner = pruner
        self._is_interrupted = is_interrupted

    def prune(self, study: Any, trial: Any) -> bool:
        return bool(self._pruner.prune(_StudyView(study, self._is_interrupted), trial))


class _StudyView:
    """A study without some of its trials."""

    def __init__(self, study: Any, hides: Callable[[Any], bool]) -> None:
        self._study = study
        self._hides = hides

    def get_trials(self, *arguments: Any, **options: Any) -> list[Any]:
        return [trial for trial in self._study.get_trials(*arguments, **options) if not self._hides(trial)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)
