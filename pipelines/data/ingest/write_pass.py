"""Third pass of ingest, in Spark's Python workers: writes the Parquet files of the table, each with one row group.

Arrow writes them, not Spark: Arrow takes all rows of a file at once, Spark one by one.
"""

import hashlib
import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.ingest.shuffle_pass import PART_COLUMNS, Plan, rows_of
from pipelines.data.ingest.statistics import Moments
from pipelines.data.table.row_hashes import hash_images
from pipelines.data.table.row_parts import Part
from pipelines.data.table.schema import SPLIT_COLUMN, Split
from pipelines.system import atomic

WRITTEN_COLUMNS = (
    "segment int, file int, num_bytes bigint, sha256 string, rows_per_label array<bigint>, image_hashes binary, "
    "value_range array<double>, moments binary, target_moments binary"
)


@dataclass(frozen=True)
class WrittenFile:
    """One row of `WRITTEN_COLUMNS`."""

    segment: int
    file: int
    num_bytes: int
    sha256: str
    rows_per_label: Sequence[int]
    """Empty for regression."""
    image_hashes: bytes
    """uint64: hash of each input, without those above `Plan.hash_limit`."""
    value_range: Sequence[float] | None = None
    """Smallest and largest value; None unless the range of the training rows is wanted."""
    moments: bytes | None = None
    """`Moments` of the values, by feature or channel; None unless training rows are standardized."""
    target_moments: bytes | None = None
    """`Moments` of the targets; None unless it is a regression's training file."""


def path_of(split: Split, number: int) -> str:
    """Path of a file below the folder of its table. Path order is row order."""
    return f"{SPLIT_COLUMN}={split}/part-{number:05d}.parquet"


def write_batches(batches: Iterable[pa.RecordBatch], plan: Plan, folder: str) -> Iterator[pa.RecordBatch]:
    """Write each file of the table whose rows are in this partition.

    Args:
        batches: `pipelines.data.ingest.shuffle_pass.SHUFFLED_COLUMNS`, with the rows of a file consecutive.
        plan: contents of each file.
        folder: folder of the table. The folders of the splits must exist: a task that outlives its job must not recreate them.

    Yields:
        `WRITTEN_COLUMNS`, one row per file.

    Raises:
        ValueError: a planned row is missing or occurs twice.
        OSError: the file cannot be written.
    """
    for (segment, file), rows in itertools.groupby(rows_of(batches), lambda row: (row["segment"], row["file"])):
        planned = plan.segments[segment]
        values = _gather(rows, planned.rows_of_file(file), plan.parts, path_of(planned.split, file))
        content = _parquet(values, plan.parts)
        _write_file(Path(folder) / path_of(planned.split, file), content)
        columns = {
            "segment": pa.array([segment], pa.int32()),
            "file": pa.array([file], pa.int32()),
            "num_bytes": pa.array([len(content)], pa.int64()),
            "sha256": pa.array([hashlib.sha256(content).hexdigest()]),
            "rows_per_label": pa.array([_rows_per_label(values[1], plan)], pa.list_(pa.int64())),
            "image_hashes": pa.array([_hashes(values[0], plan)], pa.binary()),
            **_statistics(values, plan, of_training=planned.split == "train"),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _gather(rows: Iterable[Mapping[str, Any]], count: int, parts: Sequence[Part], name: str) -> tuple[npt.NDArray[np.uint8], ...]:
    """The bytes of each part of a file's rows, each [count, bytes]."""
    gathered = tuple(np.empty((count, part.num_bytes), np.uint8) for part in parts)
    copies = np.zeros(count, np.int64)
    for row in rows:
        positions = np.frombuffer(row["positions"], np.int64)
        for column, values in zip(PART_COLUMNS, gathered, strict=False):
            values[positions] = np.frombuffer(row[column], np.uint8).reshape(-1, values.shape[1])
        copies += np.bincount(positions, minlength=count)
    if (copies != 1).any():
        raise ValueError(f"{name}: {np.count_nonzero(copies != 1)} of its {count} rows are missing or duplicated; run again")
    return gathered


def _rows_per_label(targets: npt.NDArray[np.uint8], plan: Plan) -> list[int]:
    return np.bincount(targets.view("<i4")[:, 0], minlength=plan.num_classes).tolist() if plan.num_classes else []


def _hashes(inputs: npt.NDArray[np.uint8], plan: Plan) -> bytes:
    hashes = hash_images(inputs.view(np.dtype(plan.spec.dtype).newbyteorder("<")))
    return hashes[hashes <= np.uint64(plan.hash_limit)].tobytes()


def _statistics(values: Sequence[npt.NDArray[np.uint8]], plan: Plan, *, of_training: bool) -> dict[str, pa.Array]:
    spec = plan.spec
    inputs, targets, *_ = (rows.view(part.dtype) for rows, part in zip(values, plan.parts, strict=True))
    value_range, moments, target_moments = None, None, None
    if of_training and not spec.checks_range:
        value_range = [float(inputs.min()), float(inputs.max())]
    if of_training and spec.scaling == "standardize":
        moments = Moments.of(inputs.reshape(-1, spec.shape[-1])).to_bytes()
    if of_training and plan.num_targets:
        target_moments = Moments.of(targets).to_bytes()
    return {
        "value_range": pa.array([value_range], pa.list_(pa.float64())),
        "moments": pa.array([moments], pa.binary()),
        "target_moments": pa.array([target_moments], pa.binary()),
    }


def _parquet(values: Sequence[npt.NDArray[np.uint8]], parts: Sequence[Part]) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({part.column: _column(rows, part) for rows, part in zip(values, parts, strict=True)}),
        sink,
        row_group_size=len(values[0]),
        compression="zstd",
        compression_level=1,
        # Inputs hardly repeat, so a dictionary would only cost time; and nobody filters by them, so they need no statistics.
        use_dictionary=False,
        write_statistics=[part.column for part in parts if not part.is_binary],
    )
    return sink.getvalue()


def _column(rows: npt.NDArray[np.uint8], part: Part) -> pa.Array:
    if not part.is_binary:
        return pa.array(rows.view(part.dtype)[:, 0])
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1])
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(rows)])


def _write_file(target: Path, content: pa.Buffer) -> None:
    """Write a file atomically, under a unique name first: Spark may run a task again while it is still alive."""
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        unfinished.write_bytes(content)
        atomic.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
