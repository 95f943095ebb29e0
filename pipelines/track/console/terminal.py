"""The terminal that a job was started from, and one line at its bottom that is drawn anew."""

import os
import sys
from collections.abc import Callable

import psutil

# A longer line would only make it harder to follow, and more likely to be wrapped when the window gets narrower.
_LONGEST = 100
_ERASE = "\r\x1b[K"


def find() -> int | None:
    """A file descriptor of the terminal; None where the output goes elsewhere or cannot move its cursor.

    spark-submit runs the job's Python behind a pipe. The terminal is then the standard output of the JVM that is its parent.
    """
    if os.environ.get("TERM", "dumb") == "dumb":
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
    """One line that is replaced by the next, below lines that stay.

    The terminal's width is asked each time, so a window may change its size. Nothing is buffered: what is written is seen.
    """

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._draw: Callable[[int], str] | None = None

    def show(self, draw: Callable[[int], str]) -> None:
        """`draw` is given a width and returns a line that is not longer."""
        self._draw = draw
        self._write(_ERASE + draw(self._width()))

    def print(self, line: str) -> None:
        """A line that stays, above the one that is drawn anew."""
        if self._draw is None:
            self._write(f"{line}\n")
        else:
            self._write(f"{_ERASE}{line}\n{self._draw(self._width())}")

    def close(self) -> None:
        """Take the line away."""
        if self._draw is not None:
            self._draw = None
            self._write(_ERASE)

    def _width(self) -> int:
        try:
            columns = os.get_terminal_size(self._terminal).columns
        except OSError:
            columns = 0
        # A character in the last column would make some terminals begin a new line.
        return min((columns or 80) - 1, _LONGEST)

    def _write(self, text: str) -> None:
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._terminal, data) :]
        except OSError:
            # The window was closed. The job goes on; its logs and its run tell the rest.
            self._draw = None


def fitted(parts: list[str], share: float, width: int) -> str:
    """A progress line: as many of the parts as there is room for, the first ones first, and a bar in what is left.

    Args:
        parts: texts, the most important first.
        share: what is done, 0..1.
        width: the longest line allowed.
    """
    line = parts[0][:width]
    for part in parts[1:]:
        if len(line) + 2 + len(part) <= width:
            line = f"{line}  {part}"
    room = width - len(line) - 4
    if room < 8:
        return line
    length = min(room, 40)
    done = int(length * min(max(share, 0.0), 1.0))
    return f"[{'=' * done}{'>' if done < length else ''}{' ' * (length - done - 1)}]  {line}"
