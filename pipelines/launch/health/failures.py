"""What went wrong on a rank, and which rank's trouble is the cause of the others'."""

import dataclasses
import json
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConvoyError
from pipelines.system import atomic
from pipelines.system.secrets import mask

_FOLDER = "failures"
_EMBEDDED = "convoy-failure:"
# What a rank raises when another rank has gone: an effect, never the cause.
_EFFECTS = ("HorovodInternalError", "Horovod has been shut down", "Connection reset by peer", "Connection closed by peer")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One rank's end."""

    rank: int
    host: str
    time: float
    """Seconds since the Unix epoch."""
    error: str
    """Exception type and message, or what ended the process."""
    traceback: str
    """Empty when the process was killed."""
    log_path: str
    user_error: bool = False
    """The error is a `ConvoyError`: its message alone says what to do."""
    lost: bool = False
    """The process was ended from outside, or does not run any more: the same work may well succeed another time."""
    last_activity: str = ""
    """What the rank was last seen doing, where its own error does not tell."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Failure":
        return cls(**json.loads(text))

    @property
    def is_effect(self) -> bool:
        return any(sign in self.error for sign in _EFFECTS)


def write_failure(work_dir: Path, failure: Failure) -> None:
    """Leave a report where the driver finds it."""
    folder = work_dir / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / f"rank-{failure.rank}.json", failure.to_json())


def has_failure(work_dir: Path, rank: int) -> bool:
    """There is a report of this rank: a full disk takes none."""
    return (work_dir / _FOLDER / f"rank-{rank}.json").exists()


def read_failures(work_dir: Path) -> tuple[Failure, ...]:
    """All reports, the cause first: effects of another rank's end come last, otherwise the earliest comes first."""
    reports = [Failure.from_json(path.read_text(encoding="utf-8")) for path in (work_dir / _FOLDER).glob("rank-*.json")]
    return causes_first(reports)


def embed(failure: Failure) -> str:
    """A report as part of an error message, for where no file can be written."""
    return f"{_EMBEDDED}{failure.to_json()}"


def extract(message: str) -> tuple[Failure, ...]:
    """The reports that were embedded in a message, in the order of `read_failures`."""
    lines = [line.partition(_EMBEDDED)[2] for line in message.splitlines() if _EMBEDDED in line]
    return causes_first({line: Failure.from_json(line) for line in lines}.values())


def failed_task(message: str) -> int | None:
    """The rank whose task Spark names as the reason for the end of a barrier stage."""
    found = re.search(r"barrier task ResultTask\(\d+, (\d+)\)", message)
    return int(found[1]) if found else None


def causes_first(reports: Iterable[Failure]) -> tuple[Failure, ...]:
    """The cause first."""
    return tuple(sorted(reports, key=lambda failure: (failure.is_effect, failure.time)))


def headline(failure: Failure) -> str:
    """One line for the person at the keyboard."""
    if failure.user_error:
        return failure.error
    last_activity = f"{failure.last_activity}; " if failure.last_activity else ""
    return f"rank {failure.rank} on {failure.host} failed: {failure.error} ({last_activity}its log: {failure.log_path})"


def failure_from_exception(error: BaseException, traceback: str, *, rank: int, host: str, log_path: str) -> Failure:
    """The report of a rank that raised."""
    if isinstance(error, ConvoyError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}".strip()
    return Failure(
        rank=rank,
        host=host,
        time=time.time(),
        error=mask(text),
        traceback=mask(traceback),
        log_path=log_path,
        user_error=isinstance(error, ConvoyError),
    )


def failure_from_exit_code(code: int, *, rank: int, host: str, log_path: str, last_activity: str = "") -> Failure:
    """The report of a rank whose process ended without one; `code` as `subprocess` gives it, negative for a signal."""
    if code - 128 in set(signal.Signals):
        # Told to end, it needed the whole grace (`pipelines.launch.workers.rank`).
        error = f"ended by {signal.Signals(code - 128).name}"
    elif code < 0:
        name = signal.Signals(-code).name
        likely = "; out of memory is the usual reason" if -code == signal.SIGKILL else ""
        error = f"killed by {name}{likely}"
    else:
        error = f"the process ended with exit code {code}"
    return Failure(
        rank=rank,
        host=host,
        time=time.time(),
        error=error,
        traceback="",
        log_path=log_path,
        lost=True,
        last_activity=last_activity,
    )


def failure_from_lost_task(*, rank: int, host: str, log_path: str, last_activity: str) -> Failure:
    """The report of a rank that left none: whoever would have written it is gone, too."""
    error = "its Spark task was lost; the Python worker or the executor was killed, or the node is gone"
    return Failure(
        rank=rank,
        host=host,
        time=time.time(),
        error=error,
        traceback="",
        log_path=log_path,
        lost=True,
        last_activity=last_activity,
    )
