"""The spool: a log of events for each rank and node.

Each rank, and a sampler on each node, appends one JSON object per line to its own file in the run folder. The driver follows the
files to draw the progress bar and to feed MLflow, so tracking credentials stay on the driver and a slow tracking server never
slows training. The files are kept, so a run is complete here even if its tracking server was down.
"""

import dataclasses
import logging
import time
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.errors import DataError, LaunchError
from pipelines.system import checked_lines, writeback

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The values that follow from the settings on these workers. The first event after each start of the workers."""

    kind: ClassVar = "plan"
    rows: int
    """Rows of the training split."""
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
    """The shard is decoded once and kept in memory instead of streamed in every epoch."""
    held_mb: int
    """Upper limit of a worker's memory for rows, in MB."""
    epoch: int
    """Epochs completed before this start."""
    step: int
    """Steps completed in the epoch after those."""


@dataclass(frozen=True)
class WeightsTaken:
    """The network starts from the weights of another one (`model.weights`)."""

    kind: ClassVar = "weights"
    layers: int
    """Layers that got their weights."""
    left: Sequence[str]
    """Layers that start from random weights, each with the reason."""

    @property
    def line(self) -> str:
        """What became of the layers, for the user."""
        count = f"{self.layers} layer{'s' if self.layers != 1 else ''} taken"
        return f"{count}; random weights in {', '.join(self.left)}" if self.left else f"{count}, all of the network"


@dataclass(frozen=True)
class FirstStep:
    """The first step after a start of the workers is done."""

    kind: ClassVar = "first_step"


@dataclass(frozen=True)
class StepProgress:
    """Progress within an epoch, twice a second at most."""

    kind: ClassVar = "progress"
    epoch: int
    """From 1."""
    step: int
    rows_per_second: float
    """All workers together, since the epoch began."""
    metrics: Mapping[str, float] | None = None
    """Loss and first metric of the epoch so far, by name."""


@dataclass(frozen=True)
class EpochEnd:
    """An epoch and its validation are done."""

    kind: ClassVar = "epoch"
    epoch: int
    metrics: Mapping[str, float]
    """By name in MLflow."""
    validation_seconds: float = 0.0
    """Duration of the validation, which ended with this event."""


@dataclass(frozen=True)
class FinalScore:
    """The test is done; loss and metrics are those of the test rows of all ranks."""

    kind: ClassVar = "test"
    loss: float
    metrics: Mapping[str, float]
    rows: int


@dataclass(frozen=True)
class ModelSaved:
    """The model is saved. The last event of a training, from rank 0."""

    kind: ClassVar = "saved"


@dataclass(frozen=True)
class TrainingStopped:
    """Training stopped on request, after a checkpoint at this position."""

    kind: ClassVar = "stopped"
    epoch: int
    step: int


@dataclass(frozen=True)
class NodeSample:
    """System metrics of a node."""

    kind: ClassVar = "system"
    sample: int
    """Number of the sample, from 1."""
    metrics: Mapping[str, float]


_OfRank = TrainingPlan | WeightsTaken | FirstStep | StepProgress | EpochEnd | FinalScore | ModelSaved | TrainingStopped
Values = _OfRank | NodeSample
_KINDS: dict[str, type[Values]] = {each.kind: each for each in typing.get_args(Values)}


@dataclass(frozen=True)
class Event:
    """An event of a rank, or a sample of a node."""

    rank: int
    """Number of the node for a `NodeSample`."""
    time: float
    """Seconds since the Unix epoch by the rank's clock."""
    values: Values

    @property
    def kind(self) -> str:
        """Name of the kind in the file."""
        return self.values.kind


class SpoolWriter:
    """Appends the events of one rank or node. When `write` returns, the event is in the file or its local copy
    (`pipelines.system.writeback`).

    Args:
        folder: `SPOOL_FOLDER` of the run folder.
        rank: number of the rank or node.
        source: kind of source.

    Raises:
        LaunchError: a write fails, here or in any method.
    """

    def __init__(self, folder: Path, rank: int, source: Literal["rank", "node"] = "rank") -> None:
        self._rank = rank
        self._path = folder / f"{source}-{rank}.jsonl"
        with self._on_disk():
            folder.mkdir(parents=True, exist_ok=True)
            self._path = writeback.stage_of(folder.parent).file(self._path)
            self._file = self._path.open("ab")
            # A killed rank may have left an incomplete line.
            if self._file.tell():
                self._file.write(b"\n")

    def write(self, values: Values) -> None:
        known = {name: value for name, value in dataclasses.asdict(values).items() if value is not None}
        event = {"rank": self._rank, "kind": values.kind, "time": time.time(), "values": known}
        with self._on_disk():
            self._file.write(checked_lines.encode(event))
            self._file.flush()

    def written(self) -> list[Event]:
        """All events in the file, including those of earlier starts."""
        with self._on_disk():
            return list(_events(self._path.read_bytes(), self._path))

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
    """Reads new events from all files of a spool, each once.

    If whole files are copied (`pipelines.system.writeback`), a rank that restarts after a kill may replace a file with one that
    lacks the last events. It is then read again from its beginning.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._last_lines: dict[Path, bytes] = {}
        self._seen: dict[Path, set[int]] = {}

    def new_events(self) -> Iterator[Event]:
        """Events added since the last call."""
        for path in sorted(self._folder.glob("*-*.jsonl")):
            offset, last = self._offsets.get(path, 0), self._last_lines.get(path, b"")
            try:
                with path.open("rb") as file:
                    file.seek(offset - len(last))
                    if file.read(len(last)) != last:
                        offset = file.seek(0)
                    added = file.read()
            except FileNotFoundError:
                # It is being replaced (`pipelines.system.atomic`).
                continue
            # An unterminated line is still being written.
            lines = added[: added.rfind(b"\n") + 1].splitlines(keepends=True)
            if not lines:
                continue
            self._offsets[path], self._last_lines[path] = offset + sum(map(len, lines)), lines[-1]
            seen = self._seen.setdefault(path, set())
            new = [line for line in lines if hash(line) not in seen]
            seen.update(map(hash, new))
            yield from _events(b"".join(new), path)


def _events(lines: bytes, path: Path) -> Iterator[Event]:
    for line in lines.split(b"\n"):
        try:
            raw = checked_lines.decode(line)
            # An incomplete line of a killed rank, or the empty one after it.
            if raw is None:
                continue
            event = Event(int(raw["rank"]), float(raw["time"]), _values(raw["kind"], raw["values"]))
        except DataError as error:
            _log.warning("%s: a line %s; what it reported is missing", path, error)
            continue
        except (ValueError, TypeError, KeyError):
            # An event of another version.
            continue
        yield event


def _values(kind: str, values: Mapping[str, Any]) -> Values:
    cls = _KINDS[kind]
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})
