"""Where work that a user waits for sends its progress and warnings."""

from typing import Protocol

from pipelines.system.path_rules import printable
from pipelines.system.secrets import mask


class Reporter(Protocol):
    """Receives progress and warnings, one line at a time."""

    def say(self, line: str) -> None:
        """Report progress."""

    def warn(self, line: str) -> None:
        """Report that something is wrong, or was decided for the user. Shown even where progress is not."""


class PrintReporter:
    """Prints to standard output, credentials masked; `quiet` leaves out progress."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, line: str) -> None:
        if not self._quiet:
            print(mask(printable(line)), flush=True)

    def warn(self, line: str) -> None:
        print(mask(f"warning: {printable(line)}"), flush=True)


class NullReporter:
    """Drops everything."""

    def say(self, line: str) -> None:
        return

    def warn(self, line: str) -> None:
        return
