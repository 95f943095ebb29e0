"""Console output of a training: a progress bar on a terminal, plain lines elsewhere, and the result at the end."""

import logging
from collections.abc import Mapping
from contextlib import suppress

from pipelines import tasks
from pipelines.config.schema import Verbosity
from pipelines.system.path_rules import printable
from pipelines.system.secrets import mask
from pipelines.tasks.metric import plain
from pipelines.track.console import terminal
from pipelines.track.rundir import layout
from pipelines.track.rundir.events import EpochEnd, Event, StepProgress, TrainingPlan, WeightsTaken
from pipelines.track.rundir.summary import TrainingSummary

_log = logging.getLogger(__name__)


class TrainingConsole:
    """Shows a run: one line per epoch, and on a terminal a progress bar. A `pipelines.system.reporter.Reporter`.

    Args:
        epochs: number of epochs planned.
        verbosity: `quiet` prints only warnings, `verbose` log lines too (`echo`).
    """

    def __init__(self, epochs: int, verbosity: Verbosity = "normal") -> None:
        self.verbosity = verbosity
        self._epochs = epochs
        self._steps = 1
        self._first_progress: tuple[float, float] | None = None
        descriptor = terminal.find() if verbosity != "quiet" else None
        self._status = terminal.StatusLine(descriptor) if descriptor is not None else None

    def say(self, line: str) -> None:
        """Print and log a line."""
        _log.info("%s", line)
        if self.verbosity != "quiet":
            self._print(line)

    def echo(self, line: str) -> None:
        """Print a log line without logging it, if verbose."""
        if self.verbosity == "verbose":
            self._print(line)

    def warn(self, line: str) -> None:
        """Print and log a warning, whatever the verbosity."""
        _log.warning("%s", line)
        self._print(f"warning: {line}")

    def show(self, event: Event) -> None:
        """Show an event of rank 0."""
        match event.values:
            case TrainingPlan() as plan:
                # Every restart sends a new plan.
                self._first_progress = None
                self._steps = plan.steps
                self.say(arithmetic(plan))
            case WeightsTaken() as weights:
                self.say(f"model.weights: {weights.line}")
            case StepProgress() as step:
                self._show_progress(step, event.time)
            case EpochEnd() as end:
                self.say(epoch_line(end.epoch, self._epochs, end.metrics))

    def close(self) -> None:
        """Remove the progress bar."""
        if self._status is not None:
            self._status.close()

    def result(self, summary: TrainingSummary) -> None:
        """Print the results and where to find the run."""
        seconds, test = summary.seconds, summary.test
        rows = {}
        if test is not None:
            (metric, score), *others = test.metrics.items()
            beside = [f"{other} {tasks.shown(other, number)}" for other, number in {"loss": test.loss, **dict(others)}.items()]
            rows[f"test {metric}"] = f"{tasks.shown(metric, score)}  ({', '.join(beside)}, {test.rows:,} rows)"
        rows |= {
            "trained": f"{_count(summary.epochs, 'epoch')} on {_count(summary.workers, 'worker')}, {summary.precision}, "
            f"{summary.rows_per_second:,} rows/s",
            "seconds": f"{seconds.total:.1f} in all: ingest {seconds.ingest:.1f}, launch {seconds.launch:.1f}, "
            f"training {seconds.train:.1f}; first step after {seconds.first_step:.1f}",
            "table": summary.table,
            "run": f"{summary.run_id}  (./convoy ui shows it)",
            "model": summary.model_uri,
        }
        if not summary.run_id:
            rows |= {
                "run": f"{summary.run_dir}, not yet in MLflow",
                "model": f"{summary.run_dir}/{layout.MODEL_FOLDER}",
            }
        if summary.note:
            rows["NOTE"] = summary.note
        if self.verbosity != "quiet":
            self._print("")
        for name, value in rows.items():
            self.say(f"{name:15}{value}")

    def _show_progress(self, progress: StepProgress, time: float) -> None:
        if self._status is None:
            return
        done = (progress.epoch - 1) * self._steps + progress.step
        total = self._epochs * self._steps
        first_time, first_done = self._first_progress = self._first_progress or (time, done)
        parts = [f"epoch {progress.epoch}/{self._epochs}"]
        if done > first_done:
            parts.append(f"{_clock((total - done) * (time - first_time) / (done - first_done))} left")
        parts += [f"{name} {plain(value)}" for name, value in (progress.metrics or {}).items()]
        parts.append(f"{progress.rows_per_second:,.0f} rows/s")
        self._status.show(done / total, "  ".join(parts))

    def _print(self, line: str) -> None:
        line = printable(line)
        if self._status is not None:
            self._status.print(mask(line))
        else:
            # A closed pipe or a full disk must not end the training.
            with suppress(OSError):
                print(mask(line), flush=True)


def arithmetic(plan: TrainingPlan) -> str:
    """The values that follow from the settings, in one line."""
    global_batch_size = plan.workers * plan.batch_size_per_worker
    left_out = plan.rows - plan.steps * global_batch_size
    return (
        f"{plan.rows:,} rows, {_count(plan.workers, 'worker')} x batch {plan.batch_size_per_worker} = global batch "
        f"{global_batch_size}, {plan.steps} steps an epoch ({left_out} rows left out, different ones each epoch), "
        f"learning rate {plan.learning_rate:g}, {_count(plan.threads, 'thread')} a worker, {plan.precision}, "
        f"{'from memory' if plan.in_memory else 'streamed'} (at most {plan.held_mb:,} MB of rows in a worker)"
    )


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    parts = [f"epoch {epoch}/{epochs}"]
    for split in ("train", "validation"):
        if f"{split}/loss" in metrics:
            scores = {name.removeprefix(f"{split}/"): value for name, value in metrics.items() if name.startswith(f"{split}/")}
            parts.append(f"{split} {' '.join(f'{name} {plain(value)}' for name, value in scores.items())}")
    parts.append(f"{metrics['epoch_seconds']:.1f} s")
    parts.append(f"{metrics['rows_per_second']:,.0f} rows/s")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{int(seconds):02d}" if hours else f"{minutes}:{int(seconds):02d}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
