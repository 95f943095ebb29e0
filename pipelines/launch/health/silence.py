"""Why a rank sends no heartbeats: its supervisor, which runs on the same machine, looks at the process and tells the driver."""

import contextlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import psutil

from pipelines.launch.health import heartbeat
from pipelines.system import atomic

State = Literal["stopped", "computing", "sleeping"]

_FOLDER = "silent"
# Heartbeats that are missing before the process is looked at.
_MISSED_BEATS = 3
_LOOK_SECONDS = 1.0
# Of the time; a busy machine leaves it little.
_COMPUTING_SHARE = 0.1


def seconds_until_told(seconds: float) -> float:
    """How long after the last heartbeat its supervisor has looked at a rank, given the time between heartbeats."""
    return _MISSED_BEATS * seconds + 4 * _LOOK_SECONDS


class SilenceWatch:
    """Looks at a rank's process while its heartbeats are missing.

    Args:
        attempt_dir: folder of the heartbeats, and of what is seen.
        rank: number of the rank.
        pid: its process.
        seconds: time between heartbeats.
        signal_process: sends the process a signal.
    """

    def __init__(self, attempt_dir: Path, rank: int, pid: int, seconds: float, signal_process: Callable[[int], None]) -> None:
        self._attempt_dir, self._rank, self._pid = attempt_dir, rank, pid
        self._patience = _MISSED_BEATS * seconds
        self._signal = signal_process
        self._looked = self._heard = time.monotonic()
        self._beats = 0
        self._processor_seconds = 0.0
        self._stacks_asked_for = False

    def look(self) -> None:
        """Look, at most once a second."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        elapsed, self._looked = now - self._looked, now
        last = heartbeat.read(self._attempt_dir, self._rank)
        if last is None:
            # It is starting, or has ended.
            return
        if last.beats != self._beats:
            self._beats, self._heard = last.beats, now
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(self._pid)
            times = process.cpu_times()
            computed = times.user + times.system - self._processor_seconds
            self._processor_seconds += computed
            if now - self._heard < self._patience + elapsed:
                return
            state: State = "computing" if computed > _COMPUTING_SHARE * elapsed else "sleeping"
            if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
                state = "stopped"
            elif not self._stacks_asked_for:
                # It writes the stacks of its threads to its log, and needs no lock for it.
                self._stacks_asked_for = True
                self._signal(signal.SIGUSR1)
            path = _path(self._attempt_dir, self._rank)
            path.parent.mkdir(exist_ok=True)
            atomic.write(path, json.dumps({"beats": self._beats, "state": state}))


def state(attempt_dir: Path, last: heartbeat.Heartbeat) -> State | None:
    """How a process was seen after its last heartbeat; None if nobody looked at it."""
    try:
        seen = json.loads(_path(attempt_dir, last.rank).read_text(encoding="utf-8"))
        found: State | None = seen["state"] if seen["beats"] == last.beats else None
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(attempt_dir: Path, rank: int) -> Path:
    return attempt_dir / _FOLDER / f"rank-{rank}.json"
