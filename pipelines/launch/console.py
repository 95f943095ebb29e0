"""What the person at the keyboard sees: a progress bar on a terminal, plain lines elsewhere, a table at the end."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from pipelines.secrets import mask
from pipelines.spool import Event


class TrainingConsole:
    """Follows a run. On a terminal one bar grows over all epochs; elsewhere each epoch is one line."""

    def __init__(self, epochs: int) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._epochs = epochs
        self._steps = 1
        self._workers = 1
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        # A reader of the output that has gone, or a full disk, ends no training. Rich turns a broken pipe into SystemExit.
        with suppress(OSError, SystemExit):
            self._console.print(mask(line), markup=False)

    def show(self, event: Event) -> None:
        """Show what rank 0 reported."""
        values = event.values
        if event.kind == "plan":
            self._plan(values)
        elif event.kind == "progress" and self._progress is not None and self._task is not None:
            done = (values["epoch"] - 1) * self._steps + values["step"]
            self._progress.update(self._task, completed=done, details=_details(values["epoch"], self._epochs, values))
        elif event.kind == "epoch":
            self._epoch(values["epoch"], values["metrics"])

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def result(self, summary: Mapping[str, Any]) -> None:
        """The table at the end, and how to open the run."""
        seconds, test = summary["seconds"], summary["test"]
        rows = {
            "test accuracy": f"{100 * test['accuracy']:.2f} %  (loss {test['loss']:.4f}, {test['rows']:,} rows)",
            "trained": f"{_count(summary['epochs'], 'epoch')} on {_count(summary['workers'], 'worker')}, {summary['precision']}, "
            f"{summary['rows_per_second']:,} rows/s",
            "seconds": f"{seconds['total']:.1f} in all: ingest {seconds['ingest']:.1f}, launch {seconds['launch']:.1f}, "
            f"training {seconds['train']:.1f}; first step after {seconds['first_step']:.1f}",
            "table": summary["table"],
            "run": f"{summary['run_id'] or 'not in MLflow yet'}  (./convoy ui shows it)",
            "model": summary["model_uri"],
        }
        if summary["note"]:
            rows["NOTE"] = summary["note"]
        grid = Grid.grid(padding=(0, 2))
        for name, value in rows.items():
            grid.add_row(name, value)
        self._console.print()
        self._console.print(grid, markup=False)

    def _plan(self, values: Mapping[str, Any]) -> None:
        self._steps = values["steps"]
        self._workers = values["workers"]
        self.say(arithmetic(values))
        if sys.stdout.isatty():
            self._progress = Progress(
                BarColumn(),
                TextColumn("{task.fields[details]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task("training", total=self._epochs * self._steps, details=f"epoch 1/{self._epochs}")
            self._progress.start()

    def _epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=epoch * self._steps)
        parts = [f"epoch {epoch}/{self._epochs}"]
        for split in ("train", "validation"):
            if f"{split}/loss" in metrics:
                parts.append(f"{split} loss {metrics[f'{split}/loss']:.4f} accuracy {metrics[f'{split}/accuracy']:.4f}")
        parts.append(f"{metrics['epoch_seconds']:.1f} s")
        parts.append(f"{metrics['rows_per_second']:,.0f} rows/s")
        self.say("  ".join(parts))


def arithmetic(plan: Mapping[str, Any]) -> str:
    """One line that says what the settings come to."""
    global_batch_size = plan["workers"] * plan["batch_size_per_worker"]
    left_out = plan["rows"] - plan["steps"] * global_batch_size
    return (
        f"{plan['rows']:,} rows, {_count(plan['workers'], 'worker')} x batch {plan['batch_size_per_worker']} = global batch "
        f"{global_batch_size}, {plan['steps']} steps an epoch ({left_out} rows left out, others each time), "
        f"learning rate {plan['learning_rate']:g}, {_count(plan['threads'], 'thread')} a worker, {plan['precision']}, "
        f"{'from memory' if plan['in_memory'] else 'streamed'}"
    )


def _details(epoch: int, epochs: int, values: Mapping[str, Any]) -> str:
    metrics = " ".join(f"{name} {values[name]:.4f}" for name in ("loss", "accuracy") if name in values)
    return f"epoch {epoch}/{epochs}  {metrics}  {values['rows_per_second']:,.0f} rows/s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
