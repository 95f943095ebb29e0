"""What this rank is doing, for the driver's watchdog, and whether it was asked to stop.

The rank's main thread marks each piece of work as it begins; a reader thread marks what it waits for; work that happens outside
Python is counted by a function. The heartbeat thread (`pipelines.launch.health.heartbeat`) publishes that periodically. A mark
costs a few hundred nanoseconds.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

_Item = TypeVar("_Item")
# Heartbeats of two ranks may be some seconds apart.
_DIGESTS = 8


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Sums over the steps of this process so far.

    A step is a rank's own part, from the end of the step before until its gradients are ready, and the wait until the mean of all
    ranks is there: for slower ranks, and for the network.
    """

    steps: int = 0
    own_seconds: float = 0.0
    waited_seconds: float = 0.0
    later_steps: int = 0
    """These, the next sums and their squares are without the first step of each epoch, which is longer on all ranks."""
    later_own_seconds: float = 0.0
    later_own_squares: float = 0.0
    later_waited_seconds: float = 0.0
    later_waited_squares: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Snapshot of what a rank is doing."""

    marks: int = 0
    """Count of pieces of work begun."""
    activity: str = "starting"
    waiting: bool = False
    """The activity depends on other ranks."""
    reading: str = ""
    """What a reader is waiting for. Empty otherwise."""
    joined: bool = False
    """The rank has connected to the others."""
    reading_seconds: float = 0.0
    """Total that readers have waited."""
    step_times: StepTimes = StepTimes()
    weight_digests: Sequence[tuple[int, int]] = ()
    """The last few: the steps made before, and the CRC-32 of the weights (`pipelines.train.weight_digests`)."""


class Stopped(BaseException):
    """The rank was asked to stop and has saved its state. Not an Exception, so that no `except Exception` swallows it."""


class _RankState:
    """State of this process."""

    def __init__(self) -> None:
        self.marks = 0
        self.activity = "starting"
        self.waiting = False
        self.reading = ""
        self.joined = False
        self.read_seconds = 0.0
        self.reading_since = 0.0
        self.count: Callable[[], int] = int
        self.step_times: Callable[[], StepTimes] = StepTimes
        self.weight_digests: tuple[tuple[int, int], ...] = ()
        self.stop = threading.Event()


_rank = _RankState()


def mark(activity: str) -> None:
    """Record what the main thread does from now on."""
    _rank.activity = activity
    _rank.marks += 1


@contextmanager
def waiting(activity: str) -> Iterator[None]:
    """Record that the main thread is in an activity that needs all other ranks."""
    before = _rank.activity
    _rank.activity, _rank.waiting = f"{before}: {activity}", True
    try:
        yield
    finally:
        _rank.activity, _rank.waiting = before, False
        _rank.marks += 1


def add_weight_digest(step: int, digest: int) -> None:
    """Record a digest of the weights after so many steps."""
    _rank.weight_digests = (*_rank.weight_digests, (step, digest))[-_DIGESTS:]


def joined() -> None:
    """Record that all ranks are connected."""
    _rank.joined = True
    _rank.marks += 1


def reading(items: Iterable[_Item], what: str) -> Iterator[_Item]:
    """Yield the same items, recording the wait for each. For any thread."""
    iterator = iter(items)
    while True:
        since = time.monotonic()
        _rank.reading, _rank.reading_since = what, since
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            _rank.read_seconds += time.monotonic() - since
            _rank.reading = ""
            _rank.marks += 1
        yield item


@contextmanager
def counting(pieces: Callable[[], int], step_times: Callable[[], StepTimes] = StepTimes) -> Iterator[None]:
    """Within the block, pieces of work that no mark records are counted by a function, which `now` calls in its thread.

    Args:
        pieces: counts them.
        step_times: the times of the steps.
    """
    _rank.count, _rank.step_times = pieces, step_times
    try:
        yield
    finally:
        _rank.count, _rank.step_times = int, StepTimes
        _rank.marks += 1


def now() -> Progress:
    try:
        pieces, step_times = _rank.count(), _rank.step_times()
    except Exception:
        # The heartbeat must go on.
        pieces, step_times = 0, StepTimes()
    reading, read_seconds = _rank.reading, _rank.read_seconds
    if reading:
        read_seconds += time.monotonic() - _rank.reading_since
    return Progress(
        marks=_rank.marks + pieces,
        activity=_rank.activity,
        waiting=_rank.waiting,
        reading=reading,
        joined=_rank.joined,
        reading_seconds=read_seconds,
        step_times=step_times,
        weight_digests=_rank.weight_digests,
    )


def request_stop() -> None:
    """Ask the training to stop after the current step. Not for signal handlers: it takes a lock."""
    _rank.stop.set()


def stop_requested() -> bool:
    return _rank.stop.is_set()


def wait_for_stop() -> None:
    """Return when a stop is requested."""
    _rank.stop.wait()
