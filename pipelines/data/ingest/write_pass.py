"""Third pass of ingest, in Spark's Python workers: writes the Parquet files of the table, each with one row group.

Arrow writes them, not Spark: Arrow takes all images of a file at once, Spark one by one.
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

from pipelines.data.ingest.shuffle_pass import Plan, rows_of
from pipelines.data.table.row_hashes import hash_images
from pipelines.data.table.schema import IMAGE_COLUMN, LABEL_COLUMN, SPLIT_COLUMN, Split
from pipelines.system import atomic

WRITTEN_COLUMNS = "segment int, file int, num_bytes bigint, sha256 string, rows_per_label array<bigint>, image_hashes binary"


@dataclass(frozen=True)
class WrittenFile:
    """One row of `WRITTEN_COLUMNS`."""

    segment: int
    file: int
    num_bytes: int
    sha256: str
    rows_per_label: Sequence[int]
    image_hashes: bytes
    """uint64: hash of each image, without those above `Plan.hash_limit`."""


def path_of(split: Split, number: int) -> str:
    """Path of a file below the folder of its table. Path order is row order."""
    return f"{SPLIT_COLUMN}={split}/part-{number:05d}.parquet"


def write_batches(batches: Iterable[pa.RecordBatch], plan: Plan, folder: str) -> Iterator[pa.RecordBatch]:
    """Write each file of the table whose images are in this partition.

    Args:
        batches: `pipelines.data.ingest.shuffle_pass.SHUFFLED_COLUMNS`, with the rows of a file consecutive.
        plan: contents of each file.
        folder: folder of the table. The folders of the splits must exist: a task that outlives its job must not recreate them.

    Yields:
        `WRITTEN_COLUMNS`, one row per file.

    Raises:
        ValueError: a planned image is missing or occurs twice.
        OSError: the file cannot be written.
    """
    for (segment, file), rows in itertools.groupby(rows_of(batches), lambda row: (row["segment"], row["file"])):
        planned = plan.segments[segment]
        images, labels = _gather(rows, planned.rows_of_file(file), plan.bytes_per_row, path_of(planned.split, file))
        content = _parquet(images, labels)
        _write_file(Path(folder) / path_of(planned.split, file), content)
        columns = {
            "segment": pa.array([segment], pa.int32()),
            "file": pa.array([file], pa.int32()),
            "num_bytes": pa.array([len(content)], pa.int64()),
            "sha256": pa.array([hashlib.sha256(content).hexdigest()]),
            "rows_per_label": pa.array([np.bincount(labels, minlength=plan.num_classes).tolist()], pa.list_(pa.int64())),
            "image_hashes": pa.array([_hashes(images, plan)], pa.binary()),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _gather(
    rows: Iterable[Mapping[str, Any]], count: int, bytes_per_row: int, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    images, labels = np.empty((count, bytes_per_row), np.uint8), np.empty(count, np.int32)
    copies = np.zeros(count, np.int64)
    for row in rows:
        positions = np.frombuffer(row["positions"], np.int64)
        images[positions] = np.frombuffer(row["images"], np.uint8).reshape(-1, bytes_per_row)
        labels[positions] = np.frombuffer(row["labels"], np.int32)
        copies += np.bincount(positions, minlength=count)
    if (copies != 1).any():
        raise ValueError(f"{name}: {np.count_nonzero(copies != 1)} of its {count} rows are missing or duplicated; run again")
    return images, labels


def _hashes(images: npt.NDArray[np.uint8], plan: Plan) -> bytes:
    hashes = hash_images(images.view(np.dtype(plan.dtype).newbyteorder("<")))
    return hashes[hashes <= np.uint64(plan.hash_limit)].tobytes()


def _parquet(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]) -> pa.Buffer:
    offsets = np.arange(len(images) + 1, dtype=np.int32) * np.int32(images.shape[1])
    binary = pa.Array.from_buffers(pa.binary(), len(images), [None, pa.py_buffer(offsets), pa.py_buffer(images)])
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({IMAGE_COLUMN: binary, LABEL_COLUMN: pa.array(labels)}),
        sink,
        row_group_size=len(images),
        compression="zstd",
        compression_level=1,
        # Images hardly repeat, so a dictionary would only cost time; and nobody filters by them, so they need no statistics.
        use_dictionary=False,
        write_statistics=[LABEL_COLUMN],
    )
    return sink.getvalue()


def _write_file(target: Path, content: pa.Buffer) -> None:
    """Write a file atomically, under a unique name first: Spark may run a task again while it is still alive."""
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        unfinished.write_bytes(content)
        atomic.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
