"""Heartbeats: each rank writes what it is doing from a background thread; the driver and the rank's supervisor read it."""

import dataclasses
import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import progress
from pipelines.config import LaunchConfig
from pipelines.progress import Progress, StepTimes
from pipelines.system import atomic
from pipelines.system.memory_limit import memory
from pipelines.system.process_usage import Link, ProcessUsage, UsageMeter

_FOLDER = "heartbeats"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A rank's latest heartbeat."""

    rank: int
    host: str
    pid: int
    beats: int
    """Increases as long as the process runs, whatever it is doing."""
    done: bool
    """The function has returned or raised."""
    progress: Progress
    memory_used: int = 0
    """Bytes in use of `memory_limit`, by all processes that share it."""
    memory_limit: int = 0
    memory_whose: str = ""
    usage: ProcessUsage = field(default_factory=ProcessUsage)
    sent_at: float = 0.0
    """Seconds since the Unix epoch by the clock of its host."""
    clock_offset: float = 0.0
    """Seconds of that clock minus those since the host was started. Constant, unless the clock is set."""
    write_seconds: float = 0.0
    """What it took to write the heartbeat before."""


def interval_seconds(launch: LaunchConfig) -> float:
    """Time between heartbeats, short compared with the limits that depend on them."""
    return min(max(launch.stall_warning_seconds / 8, 0.2), 1.0)


class HeartbeatWriter:
    """Writes this process's heartbeats from a background thread.

    Args:
        attempt_dir: folder of the attempt.
        rank, host: this rank and its host.
        seconds: time between heartbeats.
    """

    def __init__(self, attempt_dir: Path, rank: int, host: str, seconds: float) -> None:
        self._attempt_dir = attempt_dir
        self._rank = rank
        self._host = host
        self._seconds = seconds
        self._beats = 0
        self._write_seconds = 0.0
        self._meter = UsageMeter()
        self._stop = threading.Event()
        # Before any work, which may end or hang before the thread first runs.
        self._beat(done=False)
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, with a last heartbeat that says that the rank is done."""
        self._stop.set()
        self._thread.join()
        self._beat(done=True)

    def _beat_until_stopped(self) -> None:
        while not self._stop.wait(self._seconds):
            self._beat(done=False)

    def _beat(self, done: bool) -> None:
        self._beats += 1
        path = _path(self._attempt_dir, self._rank)
        try:
            available, usage = memory(), self._usage()
            heartbeat = Heartbeat(
                rank=self._rank,
                host=self._host,
                pid=os.getpid(),
                beats=self._beats,
                done=done,
                progress=progress.now(),
                memory_used=available.used,
                memory_limit=available.limit,
                memory_whose=available.whose,
                usage=usage,
                sent_at=time.time(),
                clock_offset=time.time() - _since_boot(),
                write_seconds=self._write_seconds,
            )
            content = json.dumps(dataclasses.asdict(heartbeat))
            started = time.monotonic()
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, content)
            self._write_seconds = time.monotonic() - started
        except OSError:
            # A disk that is temporarily full must not end a training; if it stays full, the watchdog reports it.
            return

    def _usage(self) -> ProcessUsage:
        try:
            return self._meter.usage()
        except Exception:
            # Figures of a kernel that is not known must not keep a rank from training.
            return ProcessUsage()


def _since_boot() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def read(attempt_dir: Path, rank: int) -> Heartbeat | None:
    """A rank's latest heartbeat; None if there is none yet."""
    try:
        return _from_json(json.loads(_path(attempt_dir, rank).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_json(raw: dict[str, Any]) -> Heartbeat:
    progress, used = raw["progress"], raw["usage"]
    links = {address: Link(**link) for address, link in used["links"].items()}
    times, digests = StepTimes(**progress["step_times"]), [(step, digest) for step, digest in progress["weight_digests"]]
    return Heartbeat(
        **{
            **raw,
            "progress": Progress(**{**progress, "step_times": times, "weight_digests": digests}),
            "usage": ProcessUsage(**{**used, "links": links}),
        }
    )


def last_activity(attempt_dir: Path, rank: int) -> str:
    """What a rank was doing in its latest heartbeat, for display; empty if there is none."""
    last = read(attempt_dir, rank)
    return "" if last is None else last.progress.reading or last.progress.activity


def _path(attempt_dir: Path, rank: int) -> Path:
    return attempt_dir / _FOLDER / f"rank-{rank}.json"
