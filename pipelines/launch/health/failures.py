"""Failure reports of ranks, and which of them is the cause of the others."""

import dataclasses
import json
import re
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConvoyError, DataError, TrainingError
from pipelines.system import atomic, checked_lines
from pipelines.system.secrets import mask
from pipelines.track.rundir.symptom import Kind, Symptom

_FOLDER = "failures"
_EMBEDDED = "convoy-failure:"
# Raised by a rank when another rank has exited: an effect, never the cause.
_EFFECTS = ("HorovodInternalError", "Horovod has been shut down", "Connection reset by peer", "Connection closed by peer")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The failure of one rank."""

    rank: int
    host: str
    time: float
    """Seconds since the Unix epoch."""
    error: str
    """Exception type and message, or how the process ended."""
    traceback: str
    """Empty if the process was killed."""
    log_path: str
    user_error: bool = False
    """The error is a `ConvoyError`, whose message says what to do."""
    details: str = ""
    """What such an error shows below its message; often empty."""
    exit_code: int = ConvoyError.exit_code
    """Of the job that it ends: a setting that only a rank can check is as invalid as one that the driver refuses."""
    lost: bool = False
    """The process was ended from outside, or does not run any more: the same work may succeed when it is repeated."""
    last_activity: str = ""
    """Last activity in the rank's heartbeat, if its error does not tell."""
    kind: Kind | None = None
    """The symptom that it is; None for any other error of the function."""
    blamed: Sequence[int] = ()
    """The ranks at fault if it is of all."""

    def to_json(self) -> str:
        """The report on one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Failure":
        return cls(**json.loads(text))

    @property
    def is_effect(self) -> bool:
        return any(message in self.error for message in _EFFECTS)


def write_failure(work_dir: Path, failure: Failure) -> None:
    """Write a report where the driver finds it, unless this rank already has one: the cause comes before what follows from it."""
    if has_failure(work_dir, failure.rank):
        return
    path = _path(work_dir, failure.rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, checked_lines.encode(dataclasses.asdict(failure)))


def has_failure(work_dir: Path, rank: int) -> bool:
    """Whether this rank's report was written; a full disk prevents it."""
    return _path(work_dir, rank).exists()


def read_failures(work_dir: Path) -> tuple[Failure, ...]:
    """All reports, the cause first: by time, effects of other failures last."""
    return causes_first(map(_read, (work_dir / _FOLDER).glob("rank-*.json")))


def _read(path: Path) -> Failure:
    problem = "is incomplete"
    try:
        values = checked_lines.decode(path.read_bytes())
        if values is not None:
            return Failure(**values)
    except (DataError, TypeError):
        # The key of the checksum itself may have changed.
        problem = "is not as it was written: some of its bytes have changed"
    rank = int(path.stem.removeprefix("rank-"))
    return dataclasses.replace(_lost(f"{path} {problem}", rank, "an unknown node", "", ""), time=path.stat().st_mtime)


def _path(work_dir: Path, rank: int) -> Path:
    return work_dir / _FOLDER / f"rank-{rank}.json"


def embed(failure: Failure) -> str:
    """A report as an error message, in case no file can be written."""
    return f"{_EMBEDDED}{failure.to_json()}"


def extract(message: str) -> tuple[Failure, ...]:
    """The reports embedded in a message, in the order of `read_failures`."""
    lines = [line.partition(_EMBEDDED)[2] for line in message.splitlines() if _EMBEDDED in line]
    return causes_first({line: Failure.from_json(line) for line in lines}.values())


def failed_task(message: str) -> int | None:
    """The rank whose task Spark names as the reason why a barrier stage failed."""
    match = re.search(r"barrier task ResultTask\(\d+, (\d+)\)", message)
    return int(match[1]) if match else None


def causes_first(reports: Iterable[Failure]) -> tuple[Failure, ...]:
    """The reports by time, effects of other failures last.

    Because of a notice the other ranks are stopped, and may have clocks that are behind.
    """
    return tuple(sorted(reports, key=lambda failure: (failure.is_effect, failure.kind != "preempted", failure.time)))


def headline(failure: Failure) -> str:
    """The failure on one line, for the terminal."""
    if failure.user_error:
        return failure.error
    activity = f"{failure.last_activity}; " if failure.last_activity else ""
    return f"rank {failure.rank} on {failure.host} failed: {failure.error} ({activity}its log: {failure.log_path})"


def failure_from_exception(error: BaseException, traceback: str, *, rank: int, host: str, log_path: str) -> Failure:
    """The report of a rank that raised an exception."""
    report = Failure(
        rank=rank,
        host=host,
        time=time.time(),
        error=mask(f"{type(error).__name__}: {error}".strip()),
        traceback=mask(traceback),
        log_path=log_path,
    )
    if not isinstance(error, ConvoyError):
        return report
    return dataclasses.replace(
        report,
        error=mask(str(error)),
        user_error=True,
        details=mask(error.details),
        exit_code=error.exit_code,
        kind=error.kind if isinstance(error, TrainingError) else "full disk" if _is_full_disk(error) else None,
        blamed=error.blamed if isinstance(error, TrainingError) else (),
    )


def _is_full_disk(error: BaseException) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in atomic.FULL


def failure_from_exit_code(code: int, *, rank: int, host: str, log_path: str, last_activity: str = "") -> Failure:
    """The report of a rank whose process ended without one; `code` as in `subprocess`, negative for a signal."""
    if code - 128 in set(signal.Signals):
        # It received the signal, and exited at the end of the grace period (`pipelines.launch.workers.rank`).
        error = f"ended by {signal.Signals(code - 128).name}"
    elif code < 0:
        name = signal.Signals(-code).name
        likely = "; out of memory is the usual reason" if -code == signal.SIGKILL else ""
        error = f"killed by {name}{likely}"
    else:
        error = f"the process ended with exit code {code}"
    return _lost(error, rank, host, log_path, last_activity)


def failure_from_lost_task(*, rank: int, host: str, log_path: str, last_activity: str) -> Failure:
    """The report of a rank that left none, because its supervisor is lost, too."""
    error = "its Spark task was lost; the Python worker or the executor was killed, or the node is gone"
    return _lost(error, rank, host, log_path, last_activity)


def _lost(error: str, rank: int, host: str, log_path: str, last_activity: str) -> Failure:
    return Failure(
        rank=rank,
        host=host,
        time=time.time(),
        error=error,
        traceback="",
        log_path=log_path,
        lost=True,
        last_activity=last_activity,
        kind="lost",
    )


def preempted(signal_name: str, *, rank: int, host: str, log_path: str, last_activity: str) -> Failure:
    """The report of a rank that was asked to end, by a signal that does not come from the driver."""
    error = f"received {signal_name}, as before its node is taken away"
    return dataclasses.replace(_lost(error, rank, host, log_path, last_activity), kind="preempted")


def symptom(failure: Failure) -> Symptom | None:
    """The failure for the run's record of symptoms; None for an error of the function."""
    if failure.kind is None:
        return None
    of_all = failure.kind in ("not finite", "drifted")
    rank = failure.blamed[0] if len(failure.blamed) == 1 else None
    return Symptom(
        kind=failure.kind,
        rank=rank if of_all else failure.rank,
        host="" if of_all else failure.host,
        line=headline(failure),
        figures={"ranks": ", ".join(map(str, failure.blamed))} if failure.blamed else {},
        ended_ranks=True,
    )
