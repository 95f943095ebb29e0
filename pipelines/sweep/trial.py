"""Run one trial: an ordinary training in its own thread, with pruning by its metric and a stop when the sweep ends."""

import logging
import math
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import SparkSession

from pipelines import errors
from pipelines.config import Config
from pipelines.errors import ConvoyError
from pipelines.launch.training import Trial, run_training
from pipelines.sweep import plan, space
from pipelines.sweep.plan import Sweep
from pipelines.sweep.search import Proposal, State, Study, TrialOutcome
from pipelines.system.secrets import first_line, mask
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir import layout
from pipelines.track.rundir.events import EpochEnd, Event
from pipelines.track.rundir.summary import TrainingSummary
from pipelines.track.tracked_run import EndedEarly

_log = logging.getLogger(__name__)


class TrialConsole(TrainingConsole):
    """Sends a trial's progress to the log, and its warnings (and, if verbose, its log lines) to the sweep's console."""

    def __init__(self, number: int, console: TrainingConsole) -> None:
        super().__init__(epochs=1, verbosity="quiet")
        self.verbosity = console.verbosity
        self._number = number
        self._console = console

    def say(self, line: str) -> None:
        _log.info("trial %d: %s", self._number, line)

    def warn(self, line: str) -> None:
        self._console.warn(f"trial {self._number}: {line}")

    def echo(self, line: str) -> None:
        self._console.echo(f"trial {self._number}: {line}")

    def show(self, event: Event) -> None:
        return


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """State shared by all trials of a sweep."""

    sweep: Sweep
    study: Study
    folder: Path
    """The sweep's folder."""
    spark: SparkSession
    fork_server: str
    threads: int
    """Threads per worker while the maximum number of trials is running."""
    halt: threading.Event
    """Set to stop all trials."""
    console: TrainingConsole


class _Watch:
    """Receives the events of a trial, from the thread that trains it; prunes and stops the trial."""

    def __init__(self, context: TrialContext, number: int, config: Config) -> None:
        self.history: list[dict[str, float]] = []
        self._context = context
        self._number = number
        self._epochs = config.training.epochs

    def __call__(self, events: Sequence[Event]) -> None:
        if self._context.halt.is_set():
            raise errors.Interrupted(signal.SIGTERM)
        for event in events:
            if isinstance(event.values, EpochEnd):
                self._epoch(event.values.epoch, dict(event.values.metrics))

    def _epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        if metrics in self.history[epoch - 1 : epoch]:
            # A restarted training reports the epochs of its checkpoint again.
            return
        # It repeats those since then, with other results if it has fewer workers.
        self.history[epoch - 1 :] = [metrics]
        sweep = self._context.sweep
        if sweep.config.pruning == "none" or epoch == self._epochs:
            return
        if self._context.study.report(self._number, epoch, metrics[sweep.metric]):
            raise EndedEarly(f"after epoch {epoch} of {self._epochs}")


def run_trial(context: TrialContext, proposal: Proposal) -> TrialOutcome:
    """Run a trial to its end. Its failure is an outcome and does not raise.

    Raises:
        Interrupted: the sweep was stopped before the trial ended.
    """
    started = time.time()
    watch: _Watch | None = None
    run_dir = Path()
    state: State = "failed"
    value: float | None = None
    metrics: dict[str, float] = {}
    try:
        config = context.sweep.configuration(proposal.assignment)
        watch = _Watch(context, proposal.number, config)
        run_dir = layout.make(context.folder / layout.TRIALS_FOLDER, f"trial-{proposal.number}")
        summary = _train(context, proposal, config, run_dir, watch, started)
    except EndedEarly as end:
        assert watch is not None
        metrics = watch.history[-1]
        state, note, value = "pruned", str(end), metrics.get(context.sweep.metric)
    except ConvoyError as error:
        note = mask(str(error))
    except Exception as error:
        _log.exception("trial %d", proposal.number)
        note = first_line(f"{type(error).__name__}: {error}")
    else:
        patience = config.training.early_stopping_patience
        kept = summary.best_epoch if patience else summary.epochs
        metrics = dict(watch.history[kept - 1]) if kept <= len(watch.history) else {}
        if summary.test is not None:
            metrics |= {"test/loss": summary.test.loss} | {f"test/{name}": value for name, value in summary.test.metrics.items()}
        state, note, value = "finished", "", metrics.get(context.sweep.metric)
        if value is None or not math.isfinite(value):
            state, note, value = "failed", f"it reported no {context.sweep.metric}", None
    record = layout.read_record(run_dir)
    return TrialOutcome(
        state=state,
        value=value,
        note=note,
        seconds=round(time.time() - started, 1),
        epochs=len(watch.history) if watch is not None else 0,
        run_dir=str(run_dir),
        run_id=record.run_id if record is not None else "",
        metrics=metrics,
    )


def _train(
    context: TrialContext, proposal: Proposal, config: Config, run_dir: Path, watch: _Watch, started: float
) -> TrainingSummary:
    sweep = context.sweep
    tags = {"sweep": sweep.config.name, "trial": str(proposal.number)}
    tags |= {f"trial.{name}": space.label_of(value) for name, value in proposal.assignment.items()}
    trial = Trial(
        spark=context.spark,
        fork_server=context.fork_server,
        run_dir=run_dir,
        parent=context.folder,
        name=f"trial {proposal.number}: {space.to_text(proposal.assignment)}".rstrip(": "),
        tags=tags,
        tested=sweep.config.purpose == "compare",
        watch=watch,
    )
    console = TrialConsole(proposal.number, context.console)
    return run_training(plan.for_trial(config, context.threads), console, started, trial=trial)
