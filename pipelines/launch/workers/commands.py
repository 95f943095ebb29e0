"""Commands from the driver to all supervisors: a word in a file of the attempt folder, which the supervisors poll."""

import contextlib
from pathlib import Path

from pipelines.system import atomic

STOP = "stop"
"""Ranks stop after their current step, write a checkpoint, and exit within the grace period."""
KILL = "kill"
"""Ranks are killed immediately."""
GRACE_SECONDS = 4.0
"""Time that a rank has to write a checkpoint and exit after `STOP`."""
_FILE = "order"


def prepare(attempt_dir: Path) -> None:
    """Create the file without a command: that there is none would be remembered by NFS for up to a minute, its content is not."""
    with contextlib.suppress(OSError):
        atomic.write(attempt_dir / _FILE, "")


def send(attempt_dir: Path, command: str) -> None:
    """Send a command, unless the ranks are to be killed already. If it fails, the caller still ends the tasks through Spark."""
    if read(attempt_dir) == KILL:
        return
    with contextlib.suppress(OSError):
        atomic.write(attempt_dir / _FILE, command)


def read(attempt_dir: Path) -> str:
    """The command of this attempt; empty for none."""
    try:
        return (attempt_dir / _FILE).read_text(encoding="utf-8")
    except OSError:
        return ""
