"""Search with Optuna: propose trials, prune them and record their outcomes. Only this module imports Optuna.

The record is Optuna's journal in the sweep's folder, which is all that resuming a sweep needs: trials that had ended are kept,
and those that were running when the driver died are retried with the same settings.
"""

import dataclasses
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipelines.errors import ConfigError, LaunchError
from pipelines.sweep.plan import Sweep
from pipelines.sweep.pruning import WithoutInterrupted
from pipelines.sweep.record import SweepRecord
from pipelines.sweep.space import Axis, AxisValue, Choices
from pipelines.system import writeback

if TYPE_CHECKING:
    import optuna

State = Literal["finished", "pruned", "failed"]

_JOURNAL = "trials.jsonl"
_OUTCOME = "outcome"
# Marks a trial that retries an interrupted one. The text is part of the record.
_RETRY = "again"
_HALVING_FACTOR = 3
# Maximum number of random trials at the start of a Bayesian search.
_MAX_STARTUP_TRIALS = 10


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """The outcome of a trial, as plain data."""

    state: State
    value: float | None = None
    """Value of the sweep's metric; for a pruned trial the last one reported."""
    note: str = ""
    """Why it failed, or when it was pruned."""
    seconds: float = 0.0
    epochs: int = 0
    run_dir: str = ""
    run_id: str = ""
    """MLflow run ID; empty until the server has received the run."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Metrics of the epoch whose weights it ended with, and of the test if it was tested."""


@dataclass(frozen=True)
class Proposal:
    """A trial to run."""

    number: int
    """Counted from 1. A retried trial gets a new number."""
    assignment: Mapping[str, AxisValue]


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that has ended, whatever its outcome."""

    number: int
    assignment: Mapping[str, AxisValue]
    outcome: TrialOutcome


class Study:
    """The search of one sweep. Thread-safe.

    Raises:
        ConfigError: Optuna is not installed.
        LaunchError: the record is damaged or cannot be written.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self._sweep = sweep
        self._lock = threading.Lock()
        self._live: dict[int, optuna.Trial] = {}
        self._optuna = library()
        self._distributions = {axis.name: _distribution(self._optuna, axis) for axis in sweep.axes}
        try:
            journal = writeback.stage_of(folder).file(folder / _JOURNAL)
            resumed = journal.exists()
            self._study = self._optuna.create_study(
                study_name=sweep.config.name,
                storage=self._optuna.storages.JournalStorage(SweepRecord(journal)),
                direction="minimize" if sweep.minimised else "maximize",
                pruner=WithoutInterrupted(_pruner(self._optuna, sweep), self._is_interrupted),
                load_if_exists=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise LaunchError(f"{folder / _JOURNAL}: cannot be used ({error}); start a new sweep, or free the disk") from error
        if resumed:
            self._requeue_interrupted()
        else:
            for point in sweep.points:
                self._study.enqueue_trial(point)

    def ask(self) -> Proposal | None:
        """The next trial, or None if there are no more."""
        states = self._optuna.trial.TrialState
        with self._lock:
            trials = self._study.get_trials(deepcopy=False)
            waiting = any(trial.state == states.WAITING for trial in trials)
            sampled = [trial for trial in trials if _RETRY not in trial.user_attrs and not self._is_incomplete(trial)]
            if not waiting and len(sampled) >= self._sweep.trials:
                return None
            self._study.sampler = _sampler(self._optuna, self._sweep, len(sampled))
            live = self._study.ask(self._distributions)
            self._live[live.number] = live
            return Proposal(live.number + 1, _in_axis_order(self._sweep, live.params))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Report the metric of an epoch, counted from 1. Returns whether to prune the trial.

        A trial that has lost a worker may report its epochs again. The last report counts, and nothing is pruned before the epoch
        that it had reached.
        """
        with self._lock:
            trial = self._live[number - 1]
            # Optuna ignores a second report of an epoch that this copy holds.
            reported = trial._cached_frozen_trial.intermediate_values
            reached = max(reported, default=0)
            reported.pop(epoch, None)
            trial.report(value, epoch)
            return epoch >= reached and bool(trial.should_prune())

    def tell(self, number: int, outcome: TrialOutcome) -> None:
        """Record the outcome of a trial."""
        states = self._optuna.trial.TrialState
        state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[outcome.state]
        with self._lock:
            trial = self._live.pop(number - 1)
            trial.set_user_attr(_OUTCOME, dataclasses.asdict(outcome))
            self._study.tell(trial, outcome.value if state == states.COMPLETE else None, state)

    def amend(self, number: int, **changes: Any) -> None:
        """Change the outcome of a trial that has ended, for example to add its test accuracy."""
        with self._lock:
            amended = self._study.user_attrs.get("amended", {})
            self._study.set_user_attr("amended", amended | {str(number): amended.get(str(number), {}) | changes})

    def ended(self) -> list[FinishedTrial]:
        """The trials that have ended, in the order they started."""
        with self._lock:
            amended = self._study.user_attrs.get("amended", {})
            return [
                FinishedTrial(
                    trial.number + 1,
                    _in_axis_order(self._sweep, trial.params),
                    TrialOutcome(**trial.user_attrs[_OUTCOME] | amended.get(str(trial.number + 1), {})),
                )
                for trial in self._study.get_trials(deepcopy=False)
                if trial.state.is_finished() and _OUTCOME in trial.user_attrs
            ]

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return self._sweep.trials - len(self.ended())

    def _requeue_interrupted(self) -> None:
        """Queue the trials that were running when the sweep was interrupted."""
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self._study.tell(trial.number, state=states.FAIL)
            if not self._is_incomplete(trial):
                self._study.enqueue_trial(_axis_values(trial), user_attrs={_RETRY: trial.number + 1})

    def _is_incomplete(self, trial: Any) -> bool:
        """Whether the driver was killed while it sampled this trial, which is then sampled anew."""
        return self._is_interrupted(trial) and _axis_values(trial).keys() != self._distributions.keys()

    def _is_interrupted(self, trial: Any) -> bool:
        return trial.state.name in ("RUNNING", "FAIL") and _OUTCOME not in trial.user_attrs and trial.number not in self._live


def library() -> Any:
    """Import Optuna, which only sweeps need. Raises ConfigError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"sweeps need Optuna ({error}); run ./convoy setup, or pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # It warns of features that it calls experimental, in Optuna 3 of the journal, too.
    warnings.filterwarnings("ignore", module="optuna")
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _distribution(optuna: Any, axis: Axis) -> Any:
    if isinstance(axis, Choices):
        return optuna.distributions.CategoricalDistribution(axis.samples)
    if axis.integer:
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _sampler(optuna: Any, sweep: Sweep, num_sampled: int) -> Any:
    """A new sampler for each trial, so that an interrupted sweep samples the same trials as an uninterrupted one."""
    # Generators with consecutive seeds start out correlated.
    seed = int(np.random.SeedSequence((sweep.config.seed, num_sampled)).generate_state(1)[0])
    if sweep.config.search == "bayesian":
        startup_trials = min(_MAX_STARTUP_TRIALS, max(1, sweep.trials // 3))
        return optuna.samplers.TPESampler(n_startup_trials=startup_trials, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(optuna: Any, sweep: Sweep) -> Any:
    config = sweep.config
    if config.pruning == "median":
        return optuna.pruners.MedianPruner(config.pruning_after_trials, n_warmup_steps=config.pruning_after_epochs)
    if config.pruning == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(config.pruning_after_epochs, _HALVING_FACTOR)
    return optuna.pruners.NopPruner()


def _axis_values(trial: Any) -> dict[str, AxisValue]:
    """A trial's values on its axes: those sampled so far, and those it was queued with."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _in_axis_order(sweep: Sweep, params: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    return {axis.name: params[axis.name] for axis in sweep.axes}
