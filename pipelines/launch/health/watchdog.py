"""Finds ranks that make no progress, and names the one that keeps the others waiting.

Ranks write signs of life (`pipelines.launch.health.heartbeat`). The driver judges by its own clock how long ago each last
changed, so clocks of nodes do not matter. It covers the start, training, evaluation and reading alike: whatever a rank does, it
marks.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.config import LaunchConfig
from pipelines.launch.health import heartbeat
from pipelines.launch.health.failures import Failure
from pipelines.launch.health.heartbeat import Heartbeat

# A rank whose signs of life are missing for so many intervals does not run: it is stopped, swapped out, or its node is gone.
_MISSED_BEATS = 3


@dataclass(frozen=True)
class WatchdogReport:
    """What there is to say now."""

    warnings: tuple[str, ...] = ()
    """Each is said once."""
    stalled: tuple[Failure, ...] = ()
    """The ranks to end the attempt for, where it must be ended."""


@dataclass
class _WatchedRank:
    """What the driver knows of a rank. Times by the driver's monotonic clock."""

    number: int
    last: Heartbeat | None
    progressed: float
    beaten: float
    warned: bool = False


class Watchdog:
    """One for an attempt.

    Args:
        launch: the limits.
        attempt_dir: where the ranks write.
        logs: the folder of the ranks' logs.
        now: a monotonic clock, seconds.
    """

    def __init__(self, launch: LaunchConfig, attempt_dir: Path, logs: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._launch = launch
        self._attempt_dir = attempt_dir
        self._logs = logs
        self._now = now
        self._interval = heartbeat.interval_seconds(launch)
        self._started = self._polled = now()
        self._ranks = [_WatchedRank(number, None, self._started, self._started) for number in range(launch.workers)]

    def poll(self) -> WatchdogReport:
        """Read the signs of life. Costs nothing when called again too soon."""
        now = self._now()
        if now - self._polled < min(self._interval, 1.0):
            return WatchdogReport()
        self._polled = now
        for rank in self._ranks:
            self._update(rank, now)
        if not all(rank.last is not None and rank.last.progress.joined for rank in self._ranks):
            return self._check_start(now)
        return self._check_work(now)

    def _update(self, rank: _WatchedRank, now: float) -> None:
        found = heartbeat.read(self._attempt_dir, rank.number)
        if found is None:
            return
        if rank.last is None or found.beats != rank.last.beats:
            rank.beaten = now
        if rank.last is None or found.progress.marks != rank.last.progress.marks or found.done != rank.last.done:
            rank.progressed = now
            rank.warned = False
        rank.last = found

    def _check_start(self, now: float) -> WatchdogReport:
        limit = self._launch.start_timeout_seconds
        if now - self._started < limit:
            return WatchdogReport()
        late = [rank for rank in self._ranks if rank.last is None or not rank.last.progress.joined]
        blamed = [rank for rank in late if rank.last is None] or self._blamed(late, now)
        what = f"has not found the others within launch.start_timeout_seconds={limit}"
        return WatchdogReport(stalled=tuple(self._failure(rank, what, now) for rank in blamed))

    def _check_work(self, now: float) -> WatchdogReport:
        warn_after, end_after = self._launch.stall_warning_seconds, self._launch.stall_shutdown_seconds
        if all(rank.last is not None and rank.last.done for rank in self._ranks):
            # Spark has their results, or should have them.
            working = self._ranks
        else:
            working = [rank for rank in self._ranks if rank.last is not None and not rank.last.done]
        stalled = self._keeping_others(working, end_after, now)
        if stalled:
            what = f"made no progress for launch.stall_shutdown_seconds={end_after}"
            return WatchdogReport(stalled=tuple(self._failure(rank, what, now) for rank in stalled))
        warnings = []
        for rank in self._keeping_others(working, warn_after, now):
            if not rank.warned:
                rank.warned = True
                what = f"has made no progress for {now - rank.progressed:.0f} s"
                warnings.append(f"{self._sentence(rank, what, now)}; it is ended after {end_after} s")
        return WatchdogReport(warnings=tuple(warnings))

    def _keeping_others(self, working: Sequence[_WatchedRank], limit: float, now: float) -> list[_WatchedRank]:
        """The ranks to blame, when one makes no progress for longer than the limit."""
        # Those who wait for a rank have stopped a moment before it or after it.
        margin = min(limit / 2, 2 * self._interval + 1)
        if not any(now - rank.progressed >= limit for rank in working):
            return []
        still = [rank for rank in working if now - rank.progressed >= limit - margin]
        if len(still) < len(working):
            still = [rank for rank in still if rank.last is None or not rank.last.progress.waiting]
        return self._blamed(still, now)

    def _blamed(self, still: list[_WatchedRank], now: float) -> list[_WatchedRank]:
        """Those that do not run at all; or those whose reader does not deliver; or those that do not wait for others; or all."""
        silent = [rank for rank in still if self._is_silent(rank, now)]
        reading = [rank for rank in still if rank.last is not None and rank.last.progress.reading]
        own = [rank for rank in still if rank.last is not None and not rank.last.progress.waiting]
        return silent or reading or own or still

    def _is_silent(self, rank: _WatchedRank, now: float) -> bool:
        return now - rank.beaten > max(_MISSED_BEATS * self._interval, 1.0)

    def _failure(self, rank: _WatchedRank, what: str, now: float) -> Failure:
        host = rank.last.host if rank.last is not None else "an unknown node"
        return Failure(
            rank=rank.number,
            host=host,
            time=time.time(),
            error=f"{what}{self._details(rank, now)}",
            traceback="",
            log_path=str(self._logs / f"rank-{rank.number}.log"),
            # Where Spark has started no rank at all, it would not do so the next time.
            lost=any(other.last is not None for other in self._ranks),
        )

    def _sentence(self, rank: _WatchedRank, what: str, now: float) -> str:
        host = f" on {rank.last.host}" if rank.last is not None else ""
        return f"rank {rank.number}{host} {what}{self._details(rank, now)}"

    def _details(self, rank: _WatchedRank, now: float) -> str:
        if rank.last is None:
            return "; Spark has not started it: are the task slots taken, or its node gone?"
        doing = f"reading {rank.last.progress.reading}" if rank.last.progress.reading else rank.last.progress.activity
        return f" ({doing}{'; its process ' + _state(rank.last) if self._is_silent(rank, now) else ''})"


def _state(last: Heartbeat) -> str:
    """What ails a process that gives no sign of life."""
    try:
        if last.host == socket.gethostname() and psutil.Process(last.pid).status() == psutil.STATUS_STOPPED:
            return "is stopped, as by SIGSTOP"
    except psutil.Error:
        return "is gone"
    return "gives no sign of life"
