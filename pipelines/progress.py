"""What this rank is doing, for the driver's watchdog, and whether it was asked to stop.

The rank's main thread marks each piece of work as it begins; a reader thread marks what it waits for; work that happens outside
Python is counted by a function. The heartbeat thread (`pipelines.launch.health.heartbeat`) publishes that periodically. A mark
costs a few hundred nanoseconds.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

_Item = TypeVar("_Item")


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
        self.count: Callable[[], int] = int
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


def joined() -> None:
    """Record that all ranks are connected."""
    _rank.joined = True
    _rank.marks += 1


def reading(items: Iterable[_Item], what: str) -> Iterator[_Item]:
    """Yield the same items, recording the wait for each. For any thread."""
    iterator = iter(items)
    while True:
        _rank.reading = what
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            _rank.reading = ""
            _rank.marks += 1
        yield item


@contextmanager
def counting(pieces: Callable[[], int]) -> Iterator[None]:
    """Within the block, pieces of work that no mark records are counted by a function, which `now` calls in its thread."""
    _rank.count = pieces
    try:
        yield
    finally:
        _rank.count = int
        _rank.marks += 1


def now() -> Progress:
    try:
        pieces = _rank.count()
    except Exception:
        # The heartbeat must go on.
        pieces = 0
    return Progress(_rank.marks + pieces, _rank.activity, _rank.waiting, _rank.reading, _rank.joined)


def request_stop() -> None:
    """Ask the training to stop after the current step. Not for signal handlers: it takes a lock."""
    _rank.stop.set()


def stop_requested() -> bool:
    return _rank.stop.is_set()


def wait_for_stop() -> None:
    """Return when a stop is requested."""
    _rank.stop.wait()
