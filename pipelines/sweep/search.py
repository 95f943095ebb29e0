"""Which trial comes next, which one is ended early, and the record of all. The owner of Optuna.

The record is Optuna's journal in the sweep's folder. It is all that a sweep needs to go on: trials that had ended stay, those
that were at work when the driver died are tried again with the same settings.
"""

import dataclasses
import json
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipelines.errors import ConfigError, LaunchError
from pipelines.sweep.plan import Sweep
from pipelines.sweep.space import Axis, AxisValue, Choices
from pipelines.system import writeback

if TYPE_CHECKING:
    import optuna

State = Literal["finished", "pruned", "failed"]

_JOURNAL = "trials.jsonl"
_OUTCOME = "outcome"
# On a trial that takes the place of one that was interrupted.
_AGAIN = "again"
_HALVING_FACTOR = 3
# Trials that a Bayesian search draws at random before it has something to learn from.
_MOST_RANDOM_FIRST = 10


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What came of a trial. Plain data."""

    state: State
    value: float | None = None
    """Of the sweep's metric; of a pruned trial the last that was seen."""
    note: str = ""
    """Why it failed, or when it was pruned."""
    seconds: float = 0.0
    epochs: int = 0
    run_dir: str = ""
    run_id: str = ""
    """Of MLflow; empty while the server has not taken it."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of the epoch whose weights it ended with, and of the test where there was one."""


@dataclass(frozen=True)
class Proposal:
    """A trial that is to be run."""

    number: int
    """From 1. A trial that is tried again has a new one."""
    assignment: Mapping[str, AxisValue]


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that has ended."""

    number: int
    assignment: Mapping[str, AxisValue]
    outcome: TrialOutcome


class Study:
    """The search of one sweep. Safe to use from several threads.

    Raises:
        ConfigError: Optuna is not installed.
        LaunchError: the record cannot be written, or is not one.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self._sweep = sweep
        self._lock = threading.Lock()
        self._live: dict[int, optuna.Trial] = {}
        self._optuna = library()
        self._distributions = {axis.name: _distribution(self._optuna, axis) for axis in sweep.axes}
        try:
            journal = writeback.of(folder).file(folder / _JOURNAL)
            begun = journal.exists()
            _mend(journal)
            storages = self._optuna.storages
            # Optuna 3, which runtimes have, has it by an older name.
            file_backend = storages.journal.JournalFileBackend if hasattr(storages, "journal") else storages.JournalFileStorage
            backend = file_backend(str(journal))
            self._study = self._optuna.create_study(
                study_name=sweep.config.name,
                storage=self._optuna.storages.JournalStorage(backend),
                direction="minimize" if sweep.minimised else "maximize",
                pruner=_pruner(self._optuna, sweep),
                load_if_exists=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise LaunchError(f"{folder / _JOURNAL}: cannot be used ({error}); start a new sweep, or free the disk") from error
        if begun:
            self._take_up()
        else:
            for point in sweep.points:
                self._study.enqueue_trial(point)

    def ask(self) -> Proposal | None:
        """The next trial, or None when all have been given out."""
        states = self._optuna.trial.TrialState
        with self._lock:
            trials = self._study.get_trials(deepcopy=False)
            waiting = any(trial.state == states.WAITING for trial in trials)
            drawn = [trial for trial in trials if _AGAIN not in trial.user_attrs and not self._is_void(trial)]
            if not waiting and len(drawn) >= self._sweep.trials:
                return None
            self._study.sampler = _sampler(self._optuna, self._sweep, len(drawn))
            live = self._study.ask(self._distributions)
            self._live[live.number] = live
            return Proposal(live.number + 1, _in_order(self._sweep, live.params))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take in the metric of an epoch, counted from 1. True when the trial promises too little."""
        with self._lock:
            trial = self._live[number - 1]
            trial.report(value, epoch)
            return bool(trial.should_prune())

    def tell(self, number: int, outcome: TrialOutcome) -> None:
        """Take in the end of a trial."""
        states = self._optuna.trial.TrialState
        state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[outcome.state]
        with self._lock:
            trial = self._live.pop(number - 1)
            trial.set_user_attr(_OUTCOME, dataclasses.asdict(outcome))
            self._study.tell(trial, outcome.value if state == states.COMPLETE else None, state)

    def amend(self, number: int, **changes: Any) -> None:
        """Change the outcome of a trial that has ended: what was found out later, such as its test accuracy."""
        with self._lock:
            amended = self._study.user_attrs.get("amended", {})
            self._study.set_user_attr("amended", amended | {str(number): amended.get(str(number), {}) | changes})

    def ended(self) -> list[FinishedTrial]:
        """The trials that have ended, in the order in which they began."""
        with self._lock:
            amended = self._study.user_attrs.get("amended", {})
            return [
                FinishedTrial(
                    trial.number + 1,
                    _in_order(self._sweep, trial.params),
                    TrialOutcome(**trial.user_attrs[_OUTCOME] | amended.get(str(trial.number + 1), {})),
                )
                for trial in self._study.get_trials(deepcopy=False)
                if trial.state.is_finished() and _OUTCOME in trial.user_attrs
            ]

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return self._sweep.trials - len(self.ended())

    def _take_up(self) -> None:
        """Put what was at work when the sweep was interrupted in the queue again."""
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self._study.tell(trial.number, state=states.FAIL)
            if not self._is_void(trial):
                self._study.enqueue_trial(_assigned(trial), user_attrs={_AGAIN: trial.number + 1})

    def _is_void(self, trial: Any) -> bool:
        """The driver was killed while it drew this trial. It is drawn anew."""
        interrupted = (
            trial.state.name in ("RUNNING", "FAIL") and _OUTCOME not in trial.user_attrs and trial.number not in self._live
        )
        return interrupted and _assigned(trial).keys() != self._distributions.keys()


def library() -> Any:
    """Optuna, which only sweeps need. Raises ConfigError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"sweeps need Optuna ({error}); run ./convoy setup, or pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Of what it calls experimental, which in Optuna 3 includes the journal.
    warnings.filterwarnings("ignore", module="optuna")
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _distribution(optuna: Any, axis: Axis) -> Any:
    if isinstance(axis, Choices):
        return optuna.distributions.CategoricalDistribution(axis.samples)
    if axis.whole:
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _sampler(optuna: Any, sweep: Sweep, drawn: int) -> Any:
    """A new one for each trial, so that a sweep that was interrupted draws what it would have drawn."""
    # Generators whose seeds are neighbours begin alike.
    seed = int(np.random.SeedSequence((sweep.config.seed, drawn)).generate_state(1)[0])
    if sweep.config.search == "bayesian":
        random_first = min(_MOST_RANDOM_FIRST, max(1, sweep.trials // 3))
        return optuna.samplers.TPESampler(n_startup_trials=random_first, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(optuna: Any, sweep: Sweep) -> Any:
    config = sweep.config
    if config.pruning == "median":
        return optuna.pruners.MedianPruner(config.pruning_after_trials, n_warmup_steps=config.pruning_after_epochs)
    if config.pruning == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(config.pruning_after_epochs, _HALVING_FACTOR)
    return optuna.pruners.NopPruner()


def _assigned(trial: Any) -> dict[str, AxisValue]:
    """The places of a trial on its axes, those that it has been given already and those that it was made for."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _in_order(sweep: Sweep, params: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    return {axis.name: params[axis.name] for axis in sweep.axes}


def _mend(journal: Path) -> None:
    """Take away what a driver that was killed while it wrote has left: half a line, and its lock."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)
    for line in content[:whole].splitlines():
        json.loads(line)
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
