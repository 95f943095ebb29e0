"""The terminal that a job was started from, and a progress bar at its bottom."""

import contextlib
import io
import os
import sys
from typing import IO, TYPE_CHECKING, cast

import psutil

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions
    from rich.progress import Progress

_WHOLE = 10_000


def find() -> int | None:
    """Open the terminal for writing; None if the output is not a terminal or the terminal cannot move its cursor.

    Under spark-submit the job's Python writes to a pipe; the terminal is the standard output of its parent, the JVM.
    """
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    if sys.stdout.isatty():
        return os.dup(sys.stdout.fileno())
    try:
        parent = psutil.Process().parent()
        if parent is None or parent.name() != "java":
            return None
        descriptor = os.open(f"/proc/{parent.pid}/fd/1", os.O_WRONLY | os.O_NOCTTY)
    except (OSError, psutil.Error):
        return None
    if os.isatty(descriptor):
        return descriptor
    os.close(descriptor)
    return None


class StatusLine:
    """A progress bar below permanent lines. Output is unbuffered; the width of the window may change.

    rich is imported with the first progress, so that it delays the start of no job.
    """

    def __init__(self, terminal: int) -> None:
        self._file = _TerminalFile(terminal)
        self._progress: Progress | None = None

    def show(self, share: float, text: str) -> None:
        """Update the bar.

        Args:
            share: fraction done, 0..1.
            text: printed beside the bar and truncated in a narrow window, so the most important part comes first.
        """
        if self._progress is None:
            self._progress = self._new_progress()
            self._progress.add_task(text, total=_WHOLE, completed=int(share * _WHOLE))
            self._progress.start()
            # After a kill it would stay hidden.
            self._progress.console.show_cursor()
        else:
            self._fit(self._progress)
            self._progress.update(self._progress.task_ids[0], completed=int(share * _WHOLE), description=text, refresh=True)

    def print(self, line: str) -> None:
        """Print a permanent line above the bar."""
        if self._progress is None:
            self._file.write(f"{line}\n")
        else:
            self._fit(self._progress)
            self._progress.console.print(line, soft_wrap=True, markup=False, emoji=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._fit(self._progress)
            self._progress.stop()
            self._progress = None

    def _new_progress(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(file=cast("IO[str]", self._file), force_terminal=True, legacy_windows=False, highlight=False)
        progress = Progress(
            BarColumn(style="bright_black", complete_style="cyan", finished_style="green"),
            TextColumn("{task.description}", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._fit(progress)
        return progress

    def _fit(self, progress: "Progress") -> None:
        # rich asks the standard streams for their size; under spark-submit they are pipes.
        progress.console.size = self._file.size


class _TerminalFile(io.TextIOBase):
    """A terminal as a file that ignores write errors: closing the window must not end the job."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def size(self) -> "ConsoleDimensions":
        from rich.console import ConsoleDimensions

        try:
            columns, lines = os.get_terminal_size(self._descriptor)
        except OSError:
            columns, lines = 0, 0
        # Some terminals wrap after a character in the last column.
        return ConsoleDimensions(max((columns or 80) - 1, 1), lines or 25)

    def write(self, text: str) -> int:
        data = text.encode()
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
        return len(text)
