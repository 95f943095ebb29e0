"""What the driver tells the supervisors while their ranks work: a word in a file that all of them look for."""

import contextlib
from pathlib import Path

from pipelines.system import atomic

STOP = "stop"
"""Have the ranks stop after their step, keep a checkpoint, and be gone within the grace."""
KILL = "kill"
"""End the ranks at once."""
GRACE_SECONDS = 4.0
"""What a rank that was told to stop has to write a checkpoint."""
_FILE = "order"


def send(attempt_dir: Path, command: str) -> None:
    """Leave an order. Where the disk does not take it, Spark has to end the tasks."""
    with contextlib.suppress(OSError):
        atomic.write(attempt_dir / _FILE, command)


def read(attempt_dir: Path) -> str:
    """The order of this attempt, or nothing."""
    try:
        return (attempt_dir / _FILE).read_text(encoding="utf-8")
    except OSError:
        return ""
