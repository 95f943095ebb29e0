"""The spool: a log of events for each rank and node.

Each rank, and a sampler on each node, appends one JSON object a line to its own file in the run's folder. The driver follows the
files to draw the progress bar and to feed MLflow, so no tracking credential leaves the driver and a slow tracking server never
slows training. The files stay: a run whose tracking server was down is still complete here.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TextIO

from pipelines.errors import LaunchError
from pipelines.system import writeback


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What the settings come to on these workers. The first event of each start of the workers."""

    kind: ClassVar = "plan"
    rows: int
    """Of the training split."""
    workers: int
    batch_size_per_worker: int
    steps: int
    """Per epoch."""
    learning_rate: float
    """The peak, after scaling by workers."""
    threads: int
    """TensorFlow threads of each worker."""
    precision: str
    in_memory: bool
    """The shard is decoded once and kept, not streamed in every epoch."""
    held_mb: int
    """Megabytes of rows that a worker holds at most."""
    epoch: int
    """Epochs done before this start."""
    step: int
    """Steps done in the epoch after those."""


@dataclass(frozen=True)
class FirstStep:
    """The first step since the start of the workers is done."""

    kind: ClassVar = "first_step"


@dataclass(frozen=True)
class StepProgress:
    """Where an epoch is, now and then."""

    kind: ClassVar = "progress"
    epoch: int
    """Counted from 1, like those below."""
    step: int
    rows_per_second: float
    """Of all workers together, since the epoch began."""
    loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class EpochEnd:
    """An epoch and its validation are done."""

    kind: ClassVar = "epoch"
    epoch: int
    metrics: Mapping[str, float]
    """By their names in MLflow."""
    validation_seconds: float = 0.0
    """How long before this event the validation began."""


@dataclass(frozen=True)
class FinalScore:
    """This rank's part of the test rows is done; the means are those of all rows."""

    kind: ClassVar = "test"
    loss: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class ModelSaved:
    """The model is saved. The last event of a training, from rank 0."""

    kind: ClassVar = "saved"


@dataclass(frozen=True)
class TrainingStopped:
    """Training was stopped on request, after a checkpoint at this place."""

    kind: ClassVar = "stopped"
    epoch: int
    step: int


@dataclass(frozen=True)
class NodeSample:
    """How busy a node is."""

    kind: ClassVar = "system"
    sample: int
    """Its number, from 1."""
    metrics: Mapping[str, float]


Values = TrainingPlan | FirstStep | StepProgress | EpochEnd | FinalScore | ModelSaved | TrainingStopped | NodeSample
_KINDS: dict[str, type[Values]] = {
    each.kind: each
    for each in (TrainingPlan, FirstStep, StepProgress, EpochEnd, FinalScore, ModelSaved, TrainingStopped, NodeSample)
}


@dataclass(frozen=True)
class Event:
    """Something that happened on a rank, or a sample of a node."""

    rank: int
    """The number of the node where it is a `NodeSample`."""
    time: float
    """Seconds since the Unix epoch, by the rank's clock."""
    values: Values

    @property
    def kind(self) -> str:
        """The name in the file."""
        return self.values.kind


class SpoolWriter:
    """Appends the events of one rank or node. Each event is on disk when `write` returns, or in a stand-in
    (`pipelines.system.writeback`).

    Args:
        folder: `SPOOL_FOLDER` of the run folder.
        rank: whose events; the number of the node where that is the source.
        source: of the events.

    Raises:
        LaunchError: the disk does not take it, at any call.
    """

    def __init__(self, folder: Path, rank: int, source: Literal["rank", "node"] = "rank") -> None:
        self._rank = rank
        self._path = folder / f"{source}-{rank}.jsonl"
        with self._on_disk():
            folder.mkdir(parents=True, exist_ok=True)
            self._path = writeback.stage_of(folder.parent).file(self._path)
            self._file: TextIO = self._path.open("a", encoding="utf-8")
            # A rank that was killed may have left half a line.
            if self._file.tell():
                self._file.write("\n")

    def write(self, values: Values) -> None:
        known = {name: value for name, value in dataclasses.asdict(values).items() if value is not None}
        event = {"rank": self._rank, "kind": values.kind, "time": time.time(), "values": known}
        with self._on_disk():
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()

    def written(self) -> list[Event]:
        """All that is in its file, also of earlier starts."""
        with self._on_disk():
            return list(_events(self._path.read_bytes()))

    def close(self) -> None:
        with self._on_disk():
            self._file.close()

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "free space or permissions there, or set launch.runs_uri to another folder"
            raise LaunchError(f"{self._path}: cannot be written ({error.strerror}); {remedy}") from error


class SpoolReader:
    """Reads what has been added to all files since the last call, and nothing twice.

    Where files are copied as wholes (`pipelines.system.writeback`), the start of a rank after one that was killed may replace a
    file by another one with a shorter past. It is then read again from its beginning.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._last_lines: dict[Path, bytes] = {}
        self._seen: dict[Path, set[int]] = {}

    def new_events(self) -> Iterator[Event]:
        for path in sorted(self._folder.glob("*-*.jsonl")):
            offset, last = self._offsets.get(path, 0), self._last_lines.get(path, b"")
            try:
                with path.open("rb") as file:
                    file.seek(offset - len(last))
                    if file.read(len(last)) != last:
                        offset = file.seek(0)
                    added = file.read()
            except FileNotFoundError:
                # Between two copies of it (`pipelines.system.atomic`).
                continue
            # A line without its end is still being written.
            lines = added[: added.rfind(b"\n") + 1].splitlines(keepends=True)
            if not lines:
                continue
            self._offsets[path], self._last_lines[path] = offset + sum(map(len, lines)), lines[-1]
            seen = self._seen.setdefault(path, set())
            news = [line for line in lines if hash(line) not in seen]
            seen.update(map(hash, news))
            yield from _events(b"".join(news))


def _events(lines: bytes) -> Iterator[Event]:
    for line in lines.splitlines():
        try:
            raw = json.loads(line)
            event = Event(int(raw["rank"]), float(raw["time"]), _values(raw["kind"], raw["values"]))
        except (ValueError, TypeError, KeyError):
            # Half a line of a rank that was killed, the empty one after it, or an event of another version.
            continue
        yield event


def _values(kind: str, values: Mapping[str, Any]) -> Values:
    cls = _KINDS[kind]
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})
