"""Finds symptoms in the ranks' heartbeats: of each alone, and by comparing the ranks over the last seconds.

The driver compares sums, so the nodes' clocks do not matter. What slows a training must show in two windows, and is told once.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from pipelines.launch.health.comparison import compare
from pipelines.launch.health.drift import find_drift
from pipelines.launch.health.heartbeat import Heartbeat
from pipelines.launch.health.windows import window
from pipelines.track.rundir.symptom import Symptom

# Two windows, so a symptom is told some 20 s after it begins.
_WINDOW_SECONDS = 8.0
# One slow write is no slow disk.
_SLOW_WRITE_SECONDS, _SLOW_WRITES = 2.0, 3
# Steps of up to ten seconds need longer windows.
_WINDOW_FACTORS = (1, 2, 4)
_CLOCK_STEP_SECONDS, _CLOCK_SKEW_SECONDS = 2.0, 60.0


class SymptomFinder:
    """Follows the heartbeats of one attempt.

    Args:
        workers: number of ranks.
        window_seconds: length of the two windows that are compared.
        wall_clock: the driver's, in seconds since the Unix epoch.
    """

    def __init__(
        self, workers: int, window_seconds: float = _WINDOW_SECONDS, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._window = window_seconds
        self._wall_clock = wall_clock
        self._samples: list[deque[tuple[float, Heartbeat]]] = [deque() for _ in range(workers)]
        self._told: set[tuple[str, int | None, int]] = set()
        self._checked = 0.0

    def add(self, heartbeat: Heartbeat, now: float) -> list[Symptom]:
        """Take a new heartbeat, read at `now` by the driver's monotonic clock. Returns what it alone shows."""
        samples = self._samples[heartbeat.rank]
        before = samples[-1][1] if samples and samples[-1][1].pid == heartbeat.pid else None
        samples.append((now, heartbeat))
        while samples[0][0] < now - 2 * max(_WINDOW_FACTORS) * self._window:
            samples.popleft()
        return self._new([*self._clock(heartbeat, before), *_slow_disk([each for _, each in samples])])

    def check(self, now: float) -> list[Symptom]:
        """Compare the ranks' last two windows. Returns what is new."""
        if now - self._checked < self._window / 4:
            return []
        self._checked = now
        drift = self._new(find_drift([samples[-1][1] for samples in self._samples])) if all(self._samples) else []
        for length in (factor * self._window for factor in _WINDOW_FACTORS):
            earlier = [window(samples, now - 2 * length, now - length) for samples in self._samples]
            later = [window(samples, now - length, now) for samples in self._samples]
            if None not in earlier and None not in later:
                return drift + self._new(compare([each for each in earlier if each], [each for each in later if each]))
        return drift

    def _clock(self, heartbeat: Heartbeat, before: Heartbeat | None) -> list[Symptom]:
        where = f"rank {heartbeat.rank} on {heartbeat.host}"
        if before is None:
            ahead = heartbeat.sent_at - self._wall_clock()
            if abs(ahead) < _CLOCK_SKEW_SECONDS:
                return []
            problem = f"the clock of {where} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the driver's"
        else:
            ahead = heartbeat.clock_offset - before.clock_offset
            if abs(ahead) < _CLOCK_STEP_SECONDS:
                return []
            problem = f"the clock of {where} has jumped {'forward' if ahead > 0 else 'back'} by {abs(ahead):.0f} s"
        line = f"{problem}; training does not depend on it, but times in logs and in the timeline do: synchronize the clocks"
        return [
            Symptom(kind="clock", rank=heartbeat.rank, host=heartbeat.host, line=line, figures={"clock_seconds": round(ahead, 3)})
        ]

    def _new(self, symptoms: Sequence[Symptom]) -> list[Symptom]:
        new = [each for each in symptoms if _key(each) not in self._told]
        self._told.update(map(_key, new))
        return new


def _key(symptom: Symptom) -> tuple[str, int | None, int]:
    """What is told once; of the jumps of a clock, those of one order of magnitude."""
    seconds = float(symptom.figures.get("clock_seconds", 1))
    return symptom.kind, symptom.rank, int(math.log10(abs(seconds)))


def _slow_disk(heartbeats: Sequence[Heartbeat]) -> list[Symptom]:
    writes = [heartbeat.write_seconds for heartbeat in heartbeats][-_SLOW_WRITES:]
    if len(writes) < _SLOW_WRITES or min(writes) < _SLOW_WRITE_SECONDS:
        return []
    last, seconds = heartbeats[-1], min(writes)
    line = (
        f"rank {last.rank} on {last.host} needs {seconds:.1f} s or more to write a small file into the run folder: its disk is "
        "slow, and so are checkpoints; set launch.runs_uri to another, or relieve it"
    )
    return [Symptom(kind="slow disk", rank=last.rank, host=last.host, line=line, figures={"write_seconds": seconds})]
