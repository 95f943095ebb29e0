"""Watchdog: detects ranks that make no progress, and identifies the one that the others wait for.

Ranks write heartbeats (`pipelines.launch.health.heartbeat`). The driver measures with its own clock how long each has been
unchanged, so the nodes' clocks do not matter. This covers start, training, evaluation and reading alike, because a rank marks
everything it does.
"""

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.config import LaunchConfig
from pipelines.launch.health import heartbeat, silence
from pipelines.launch.health.failures import Failure
from pipelines.launch.health.heartbeat import Heartbeat
from pipelines.launch.health.scarcity import ScarcityFinder
from pipelines.launch.health.symptoms import SymptomFinder
from pipelines.track.rundir.symptom import Kind, Symptom

# A rank that misses this many heartbeats is not running: it is stopped, swapped out, or its node is lost.
_MISSED_BEATS = 3
# One that misses this many seconds of them is told, even if a rank that sends them may take longer.
_SILENT_SECONDS = 20
_KINDS: dict[silence.State | None, Kind] = {"stopped": "stopped", "computing": "locked", "sleeping": "locked"}
_LOCK = "a thread holds Python's lock, as a library does that does not release it (the stacks are in its log)"
_SILENCE: dict[silence.State | None, str] = {
    "stopped": "is stopped, as by SIGSTOP",
    "computing": f"computes, but {_LOCK}",
    "sleeping": f"sleeps, and {_LOCK}, or it is swapped out",
    None: "sends no heartbeats",
}


@dataclass(frozen=True)
class WatchdogReport:
    """The result of a check."""

    symptoms: tuple[Symptom, ...] = ()
    """What is new; each stall is reported once."""
    stalled: tuple[Failure, ...] = ()
    """The ranks because of which the attempt must be aborted; empty if it need not be."""


@dataclass
class _WatchedRank:
    """What the driver knows about a rank. Times are from the driver's monotonic clock."""

    number: int
    last: Heartbeat | None
    last_progress: float
    last_beat: float
    warned: bool = False


class Watchdog:
    """Watches the ranks of one attempt.

    Args:
        launch: number of workers and time limits.
        attempt_dir: folder of the heartbeats.
        logs: folder of the ranks' logs.
        now: monotonic clock, in seconds.
    """

    def __init__(self, launch: LaunchConfig, attempt_dir: Path, logs: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._launch = launch
        self._attempt_dir = attempt_dir
        self._logs = logs
        self._now = now
        self._interval = heartbeat.interval_seconds(launch)
        self._started = self._polled = now()
        self._finder = SymptomFinder(launch.workers)
        self._scarcity = ScarcityFinder(attempt_dir.parents[1])
        self._ranks = [_WatchedRank(number, None, self._started, self._started) for number in range(launch.workers)]

    def poll(self) -> WatchdogReport:
        """Check the heartbeats. Returns immediately if called again too soon."""
        now = self._now()
        if now - self._polled < min(self._interval, 1.0):
            return WatchdogReport()
        self._polled = now
        found = [symptom for rank in self._ranks for symptom in self._update(rank, now)]
        if not all(rank.last is not None and rank.last.progress.joined for rank in self._ranks):
            report = self._check_start(now)
        else:
            report = self._check_running(now)
        return dataclasses.replace(report, symptoms=(*found, *report.symptoms))

    def _update(self, rank: _WatchedRank, now: float) -> list[Symptom]:
        latest = heartbeat.read(self._attempt_dir, rank.number)
        if latest is None:
            return []
        found = []
        if rank.last is None or latest.beats != rank.last.beats:
            rank.last_beat = now
            found = [*self._finder.add(latest, now), *self._scarcity.memory(latest)]
        if rank.last is None or latest.progress.marks != rank.last.progress.marks or latest.done != rank.last.done:
            rank.last_progress = now
            rank.warned = False
        rank.last = latest
        return found

    def _check_start(self, now: float) -> WatchdogReport:
        limit = self._launch.start_timeout_seconds
        if now - self._started < limit:
            return WatchdogReport()
        late = [rank for rank in self._ranks if rank.last is None or not rank.last.progress.joined]
        blamed = [rank for rank in late if rank.last is None] or self._most_likely_causes(late, now)
        problem = f"has not found the others within launch.start_timeout_seconds={limit}"
        return WatchdogReport(stalled=tuple(self._failure(rank, problem, now) for rank in blamed))

    def _check_running(self, now: float) -> WatchdogReport:
        warn_after, end_after = self._launch.stall_warning_seconds, self._launch.stall_shutdown_seconds
        if all(rank.last is not None and rank.last.done for rank in self._ranks):
            # Results that do not reach Spark are a stall, too.
            running = self._ranks
        else:
            running = [rank for rank in self._ranks if rank.last is not None and not rank.last.done]
        stalled = self._stalled_ranks(running, end_after, now)
        if stalled:
            problem = f"made no progress for launch.stall_shutdown_seconds={end_after}"
            return WatchdogReport(stalled=tuple(self._failure(rank, problem, now) for rank in stalled))
        found = [*self._finder.check(now), *self._scarcity.disk()]
        silent = [
            rank for rank in self._stalled_ranks(running, min(_SILENT_SECONDS, warn_after), now) if self._is_silent(rank, now)
        ]
        for rank in silent or self._stalled_ranks(running, warn_after, now):
            if not rank.warned and not self._is_cause_pending(rank, now):
                rank.warned = True
                found.append(self._stall_symptom(rank, now))
        return WatchdogReport(symptoms=tuple(found))

    def _is_cause_pending(self, rank: _WatchedRank, now: float) -> bool:
        """Whether its supervisor is still to tell why a rank sends no heartbeats."""
        if rank.last is None or not self._is_silent(rank, now) or silence.state(self._attempt_dir, rank.last) is not None:
            return False
        return now - rank.last_beat < silence.seconds_until_told(self._interval)

    def _stall_symptom(self, rank: _WatchedRank, now: float) -> Symptom:
        seconds = now - rank.last_progress
        end_after = self._launch.stall_shutdown_seconds
        sentence = self._sentence(rank, f"has made no progress for {seconds:.0f} s", now)
        return Symptom(
            kind=self._stall_kind(rank, now),
            rank=rank.number,
            host=rank.last.host if rank.last is not None else "",
            line=f"{sentence}; it will be ended after {end_after} s",
            figures={"seconds_without_progress": seconds, "seconds_without_heartbeat": now - rank.last_beat},
        )

    def _stall_kind(self, rank: _WatchedRank, now: float) -> Kind:
        if rank.last is None or not self._is_silent(rank, now):
            return "starved" if rank.last is not None and rank.last.progress.reading else "stalled"
        return _KINDS.get(silence.state(self._attempt_dir, rank.last), "silent")

    def _stalled_ranks(self, running: Sequence[_WatchedRank], limit: float, now: float) -> list[_WatchedRank]:
        """The ranks at fault if any rank has made no progress for `limit` seconds, else none."""
        # Ranks that wait for a stalled rank have stopped at about the same time.
        margin = min(limit / 2, 2 * self._interval + 1)
        if not any(now - rank.last_progress >= limit for rank in running):
            return []
        idle = [rank for rank in running if now - rank.last_progress >= limit - margin]
        if len(idle) < len(running):
            idle = [rank for rank in idle if rank.last is None or not rank.last.progress.waiting]
        return self._most_likely_causes(idle, now)

    def _most_likely_causes(self, idle: list[_WatchedRank], now: float) -> list[_WatchedRank]:
        """Ranks that are not running; else those whose reader does not deliver; else those not waiting for others; else all."""
        silent = [rank for rank in idle if self._is_silent(rank, now)]
        reading = [rank for rank in idle if rank.last is not None and rank.last.progress.reading]
        not_waiting = [rank for rank in idle if rank.last is not None and not rank.last.progress.waiting]
        return silent or reading or not_waiting or idle

    def _is_silent(self, rank: _WatchedRank, now: float) -> bool:
        return now - rank.last_beat > max(_MISSED_BEATS * self._interval, 1.0)

    def _failure(self, rank: _WatchedRank, problem: str, now: float) -> Failure:
        host = rank.last.host if rank.last is not None else "an unknown node"
        return Failure(
            rank=rank.number,
            host=host,
            time=time.time(),
            error=f"{problem}{self._details(rank, now)}",
            kind=self._stall_kind(rank, now),
            traceback="",
            log_path=str(self._logs / f"rank-{rank.number}.log"),
            # If Spark has started no rank at all, it would not do so in a restart.
            lost=any(other.last is not None for other in self._ranks),
        )

    def _sentence(self, rank: _WatchedRank, problem: str, now: float) -> str:
        host = f" on {rank.last.host}" if rank.last is not None else ""
        return f"rank {rank.number}{host} {problem}{self._details(rank, now)}"

    def _details(self, rank: _WatchedRank, now: float) -> str:
        if rank.last is None:
            return "; Spark has not started it: are the task slots taken, or is its node lost?"
        activity = f"reading {rank.last.progress.reading}" if rank.last.progress.reading else rank.last.progress.activity
        return f" ({activity}{'; its process ' + self._silence(rank.last) if self._is_silent(rank, now) else ''})"

    def _silence(self, last: Heartbeat) -> str:
        """Why a process sends no heartbeats."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if last.host != socket.gethostname() or psutil.Process(last.pid).is_running():
                return _SILENCE[silence.state(self._attempt_dir, last)]
        return "has exited"
