"""What a rank did in some seconds of training: differences of the sums in its heartbeats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.launch.health.heartbeat import Heartbeat
from pipelines.progress import StepTimes
from pipelines.system.process_usage import Link

_LEAST_STEPS = 3


@dataclass(frozen=True)
class Window:
    """What a rank did in one window. Durations are per step, in seconds."""

    rank: int
    host: str
    seconds: float
    steps: int
    own: float
    deviation: float
    """Standard deviation of the own part, without the first steps of epochs."""
    waited: float
    waited_deviation: float
    queued: float
    """Sum over threads."""
    throttled_share: float
    processor_share: float
    reading_share: float
    reading: str
    address: str
    links: Mapping[str, Link]

    @property
    def step(self) -> float:
        return self.own + self.waited

    @property
    def queued_share(self) -> float:
        return self.queued * self.steps / self.seconds


def window(samples: Sequence[tuple[float, Heartbeat]], start: float, stop: float) -> Window | None:
    """What a rank did between two times of the driver's monotonic clock.

    Args:
        samples: heartbeats, each with the time at which the driver read it.
        start, stop: the window.

    Returns:
        None if the rank did not train for at least half of it, or made too few steps.
    """
    inside = [sample for sample in samples if start <= sample[0] <= stop]
    if len(inside) < 2 or inside[-1][0] - inside[0][0] < (stop - start) / 2:
        return None
    (began, first), (ended, last) = inside[0], inside[-1]
    before, after = first.progress.step_times, last.progress.step_times
    steps = after.steps - before.steps
    # The first step compiles the graph.
    if before.steps == 0 or steps < _LEAST_STEPS:
        return None
    seconds = ended - began
    own = (after.own_seconds - before.own_seconds) / steps
    waited = (after.waited_seconds - before.waited_seconds) / steps
    running = last.usage.processor_seconds - first.usage.processor_seconds
    return Window(
        rank=last.rank,
        host=last.host,
        seconds=seconds,
        steps=steps,
        own=own,
        deviation=_deviation(before, after, "own"),
        waited=waited,
        waited_deviation=_deviation(before, after, "waited"),
        queued=(last.usage.queued_seconds - first.usage.queued_seconds) / steps,
        throttled_share=(last.usage.throttled_seconds - first.usage.throttled_seconds) / seconds,
        processor_share=running / seconds,
        reading_share=(last.progress.reading_seconds - first.progress.reading_seconds) / seconds,
        reading=next((each.progress.reading for _, each in reversed(inside) if each.progress.reading), ""),
        address=last.usage.address,
        links={address: _difference(link, first.usage.links.get(address, Link())) for address, link in last.usage.links.items()},
    )


def _deviation(before: StepTimes, after: StepTimes, part: str) -> float:
    """Standard deviation of a part of the steps that are not the first of an epoch."""
    names = ("later_steps", f"later_{part}_seconds", f"later_{part}_squares")
    steps, seconds, squares = (getattr(after, name) - getattr(before, name) for name in names)
    return float(max(squares / steps - (seconds / steps) ** 2, 0.0) ** 0.5) if steps else 0.0


def _difference(after: Link, before: Link) -> Link:
    # A connection that was closed takes its sums with it.
    return Link(
        busy_seconds=max(after.busy_seconds - before.busy_seconds, 0.0),
        sent=max(after.sent - before.sent, 0),
        segments=max(after.segments - before.segments, 0),
        retransmitted=max(after.retransmitted - before.retransmitted, 0),
    )
