"""A sign of life of each rank: what it does, written by a thread of the rank, read by the driver and the rank's supervisor."""

import dataclasses
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from pipelines import progress
from pipelines.config import LaunchConfig
from pipelines.progress import Progress
from pipelines.system import atomic

_FOLDER = "heartbeats"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What a rank wrote last."""

    rank: int
    host: str
    pid: int
    beats: int
    """Grows as long as the process runs, whatever it does."""
    done: bool
    """The function has returned or raised."""
    progress: Progress


def interval_seconds(launch: LaunchConfig) -> float:
    """From one sign of life to the next: short against the limits that are judged by it."""
    return min(max(launch.stall_warning_seconds / 8, 0.2), 1.0)


class HeartbeatWriter:
    """Writes the signs of life of this process from a thread of its own.

    Args:
        attempt_dir: where to.
        rank, host: whose.
        seconds: from one to the next.
    """

    def __init__(self, attempt_dir: Path, rank: int, host: str, seconds: float) -> None:
        self._attempt_dir = attempt_dir
        self._rank = rank
        self._host = host
        self._seconds = seconds
        self._beats = 0
        self._stop = threading.Event()
        # Before any work, which may be over or stand still before a thread has had its turn.
        self._beat(done=False)
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say that the work is done."""
        self._stop.set()
        self._thread.join()
        self._beat(done=True)

    def _beat_until_stopped(self) -> None:
        while not self._stop.wait(self._seconds):
            self._beat(done=False)

    def _beat(self, done: bool) -> None:
        self._beats += 1
        heartbeat = Heartbeat(
            rank=self._rank, host=self._host, pid=os.getpid(), beats=self._beats, done=done, progress=progress.now()
        )
        path = _path(self._attempt_dir, self._rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, json.dumps(dataclasses.asdict(heartbeat)))
        except OSError:
            # A disk that is full for a moment must not end a training; the watchdog speaks up if it lasts.
            return


def read(attempt_dir: Path, rank: int) -> Heartbeat | None:
    """The last sign of life of a rank; None when there is none yet."""
    try:
        raw = json.loads(_path(attempt_dir, rank).read_text(encoding="utf-8"))
        return Heartbeat(**{**raw, "progress": Progress(**raw["progress"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_activity(attempt_dir: Path, rank: int) -> str:
    """What a rank was last seen doing, for people; empty when it was not seen."""
    last = read(attempt_dir, rank)
    return "" if last is None else last.progress.reading or last.progress.activity


def _path(attempt_dir: Path, rank: int) -> Path:
    return attempt_dir / _FOLDER / f"rank-{rank}.json"
