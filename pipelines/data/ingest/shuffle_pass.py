"""The second pass over the rows, in Spark's Python workers: every image gets its place in the table."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.ingest.parse_pass import VALUES_PER_STRETCH
from pipelines.data.ingest.permutation import Permutation, Segment
from pipelines.data.table.schema import BYTES_PER_VALUE, Dtype

# The images of one file of the table, from one stretch of the text: their bytes, their labels (int32) and their places in the
# file (int64). `segment` is a number in `Plan.segments`, `file` counts the files of that segment.
PLACED_COLUMNS = "segment int, file int, images binary, labels binary, places binary"

# The more images are sorted into files at once, the more of them a row of Spark's holds.
_BYTES_AT_ONCE = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the rows of a source go."""

    segments: tuple[Segment, ...]
    first_row: Mapping[tuple[int, int], int]
    """(file, block) -> number of its first row among all rows of training files, or of test files."""
    test_files: frozenset[int]
    train_order: Permutation
    test_order: Permutation
    num_values: int
    num_classes: int
    dtype: Dtype

    @property
    def bytes_per_row(self) -> int:
        """Of an image in the table."""
        return self.num_values * BYTES_PER_VALUE[self.dtype]


@dataclass(frozen=True)
class _Placed:
    """Images, each with its place."""

    segments: npt.NDArray[np.int64]
    files: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.uint8]
    """(rows, bytes per row)."""


def place_batches(batches: Iterable[pa.RecordBatch], plan: Plan) -> Iterator[pa.RecordBatch]:
    """The images of `pipelines.data.ingest.parse_pass.PARSED_COLUMNS` to `PLACED_COLUMNS`, in the dtype of the table."""
    waiting: list[dict[str, Any]] = []
    num_bytes = 0
    for row in rows_of(batches):
        waiting.append(row)
        num_bytes += len(row["labels"]) // 4 * plan.bytes_per_row
        if num_bytes >= _BYTES_AT_ONCE:
            yield _by_file(_place(waiting, plan), plan)
            waiting, num_bytes = [], 0
    if waiting:
        yield _by_file(_place(waiting, plan), plan)


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Of all batches, as Python's own values."""
    return itertools.chain.from_iterable(batch.to_pylist() for batch in batches)


def _place(rows: Sequence[Mapping[str, Any]], plan: Plan) -> _Placed:
    labels = [np.frombuffer(row["labels"], "<i4") for row in rows]
    counts = [len(some) for some in labels]
    firsts = [plan.first_row[row["file"], row["block"]] + row["number"] for row in rows]
    numbers = np.concatenate([first + np.arange(count) for first, count in zip(firsts, counts, strict=True)])
    from_test_file = np.repeat([row["file"] in plan.test_files for row in rows], counts)
    segments, in_segment = np.empty_like(numbers), np.empty_like(numbers)
    for is_test, permutation in ((False, plan.train_order), (True, plan.test_order)):
        mine = np.flatnonzero(from_test_file == is_test)
        if mine.size:
            segments[mine], in_segment[mine] = _locate(permutation(numbers[mine]), plan.segments, is_test)
    files, places = np.divmod(in_segment, np.asarray([segment.rows_per_file for segment in plan.segments])[segments])
    images = [_as_stored(row["content"], count, plan) for row, count in zip(rows, counts, strict=True)]
    return _Placed(segments, files, places, np.concatenate(labels), np.concatenate(images))


def _locate(
    order: npt.NDArray[np.int64], segments: Sequence[Segment], from_test_file: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which segment each place in the order belongs to, and where in it."""
    candidates = [number for number, segment in enumerate(segments) if segment.from_test_file == from_test_file]
    candidates.sort(key=lambda number: segments[number].start)
    starts = np.asarray([segments[number].start for number in candidates], dtype=np.int64)
    which = np.searchsorted(starts, order, side="right") - 1
    return np.asarray(candidates, dtype=np.int64)[which], order - starts[which]


def _as_stored(content: bytes, count: int, plan: Plan) -> npt.NDArray[np.uint8]:
    values = np.frombuffer(content, np.uint8)
    if len(content) != count * plan.bytes_per_row:
        # Whole numbers in a table of floats: they were parsed as uint8.
        values = values.astype("<f4").view(np.uint8)
    return values.reshape(count, plan.bytes_per_row)


def _by_file(placed: _Placed, plan: Plan) -> pa.RecordBatch:
    order = np.lexsort((placed.files, placed.segments))
    cuts = np.flatnonzero(np.diff(placed.segments[order]) | np.diff(placed.files[order])) + 1
    step = max(1, VALUES_PER_STRETCH // plan.num_values)
    parts = [part[start : start + step] for part in np.split(order, cuts) for start in range(0, len(part), step)]
    firsts = [part[0] for part in parts]
    columns = {
        "segment": pa.array(placed.segments[firsts].astype(np.int32)),
        "file": pa.array(placed.files[firsts].astype(np.int32)),
        "images": pa.array([placed.images[part].tobytes() for part in parts], pa.binary()),
        "labels": pa.array([placed.labels[part].tobytes() for part in parts], pa.binary()),
        "places": pa.array([placed.places[part].tobytes() for part in parts], pa.binary()),
    }
    return pa.RecordBatch.from_pydict(columns)
