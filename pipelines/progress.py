"""What this rank is doing, for the driver's watchdog, and whether it was asked to stop.

The rank's main thread marks each piece of work as it comes to it; a reader's thread marks what it waits for. A thread of
`pipelines.launch.health.heartbeat` writes that down now and then. Marking costs some hundred nanoseconds.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Progress:
    """A moment in the life of a rank."""

    marks: int = 0
    """Grows with every piece of work that was begun."""
    activity: str = "starting"
    waiting: bool = False
    """The activity cannot end before other ranks do their part."""
    reading: str = ""
    """What a reader has been asked for and has not delivered yet."""
    joined: bool = False
    """The rank has found the others."""


class Stopped(BaseException):
    """The rank was asked to stop, and has kept what it had. Not an Exception, so that no cleanup code swallows it."""


class _RankState:
    """One for the process."""

    def __init__(self) -> None:
        self.marks = 0
        self.activity = "starting"
        self.waiting = False
        self.reading = ""
        self.joined = False
        self.stop = threading.Event()


_rank = _RankState()


def mark(activity: str) -> None:
    """Say what the main thread does from now on."""
    _rank.activity = activity
    _rank.marks += 1


@contextmanager
def waiting(activity: str) -> Iterator[None]:
    """Say that the main thread now does something that needs all other ranks."""
    before = _rank.activity
    _rank.activity, _rank.waiting = f"{before}: {activity}", True
    try:
        yield
    finally:
        _rank.activity, _rank.waiting = before, False
        _rank.marks += 1


def joined() -> None:
    """The start is over: all ranks have found each other."""
    _rank.joined = True
    _rank.marks += 1


def reading(items: Iterable[_Item], what: str) -> Iterator[_Item]:
    """The same items, with the waiting for each of them marked. For any thread."""
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


def now() -> Progress:
    return Progress(_rank.marks, _rank.activity, _rank.waiting, _rank.reading, _rank.joined)


def request_stop() -> None:
    """Ask the training to stop after its step. Safe in a signal handler."""
    _rank.stop.set()


def stop_requested() -> bool:
    return _rank.stop.is_set()
