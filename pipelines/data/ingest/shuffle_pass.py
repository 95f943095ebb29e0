"""Second pass of ingest, in Spark's Python workers: assigns each row its position in the table."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.ingest.permutation import Permutation, Segment
from pipelines.data.sources.parsed_rows import VALUES_PER_SPARK_ROW, Parse, binary_column
from pipelines.data.table.row_hashes import limit_for
from pipelines.data.table.row_parts import Part, parts
from pipelines.data.table.schema import DataSpec, Split

# Rows of one file of the table: the bytes of their inputs, targets and weights (null if there are none), and their positions in
# the file (int64). `segment` is an index in `Plan.segments`, `file` an index among the files of that segment.
PART_COLUMNS = ("inputs", "targets", "weights")
SHUFFLED_COLUMNS = f"segment int, file int, {', '.join(f'{name} binary' for name in PART_COLUMNS)}, positions binary"

_PARSED_PARTS = ("content", "targets", "weights")
# The more rows are sorted at once, the more of them share a Spark row.
_BYTES_AT_ONCE = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the rows of a source go in the table."""

    segments: tuple[Segment, ...]
    first_row: Mapping[tuple[int, int], int]
    """(file, block) -> index of its first row among all rows of files of the same split."""
    file_splits: tuple[Split, ...]
    """Split of each file of the source."""
    orders: Mapping[Split, Permutation]
    """Order of the rows of each split of the source."""
    spec: DataSpec
    num_classes: int
    """0 for regression."""
    num_targets: int = 0
    """0 for classification."""
    weighted: bool = False

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What a row consists of, in the order of `PART_COLUMNS`."""
        return parts(self.spec, self.num_targets, weighted=self.weighted)

    @property
    def hash_limit(self) -> int:
        """The largest hash of a row's input that is kept."""
        return limit_for(sum(segment.rows for segment in self.segments))


@dataclass(frozen=True)
class _Shuffled:
    """Rows with their positions in the table."""

    segments: npt.NDArray[np.int64]
    files: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    parts: tuple[npt.NDArray[np.uint8], ...]
    """Each (rows, bytes per row)."""


def shuffle_batches(batches: Iterable[pa.RecordBatch], plan: Plan) -> Iterator[pa.RecordBatch]:
    """Map rows (`PARSED_COLUMNS` of `pipelines.data.sources.parsed_rows`) to `SHUFFLED_COLUMNS`, in the dtype of the table."""
    waiting: list[dict[str, Any]] = []
    num_bytes = 0
    for row in rows_of(batches):
        waiting.append(row)
        num_bytes += _count(row) * plan.spec.num_bytes
        if num_bytes >= _BYTES_AT_ONCE:
            yield _by_file(_shuffle(waiting, plan), plan)
            waiting, num_bytes = [], 0
    if waiting:
        yield _by_file(_shuffle(waiting, plan), plan)


def parse_and_shuffle(batches: Iterable[pa.RecordBatch], parse: Parse, plan: Plan) -> Iterator[pa.RecordBatch]:
    """Map blocks of a source (`pipelines.data.sources.parsed_rows.Blocks`) to `SHUFFLED_COLUMNS`."""
    parsed = parse(batches, keep_bad_lines=False, keep_rows=True)
    # Without the report that ends a block.
    return shuffle_batches((batch for batch in parsed if batch.column("note").null_count), plan)


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """All rows of the batches, as Python values, or buffers for binary ones, which are not copied."""
    for batch in batches:
        columns = [_buffers(column) if pa.types.is_binary(column.type) else column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield dict(zip(batch.schema.names, row, strict=True))


def _buffers(column: pa.Array) -> list[pa.Buffer | None]:
    return [value.as_buffer() for value in column]


def _shuffle(rows: Sequence[Mapping[str, Any]], plan: Plan) -> _Shuffled:
    counts = [_count(row) for row in rows]
    firsts = [plan.first_row[row["file"], row["block"]] + row["number"] for row in rows]
    numbers = np.concatenate([first + np.arange(count) for first, count in zip(firsts, counts, strict=True)])
    origins = np.repeat([plan.file_splits[row["file"]] for row in rows], counts)
    segments, in_segment = np.empty_like(numbers), np.empty_like(numbers)
    for origin, permutation in plan.orders.items():
        selected = np.flatnonzero(origins == origin)
        if selected.size:
            segments[selected], in_segment[selected] = _locate(permutation(numbers[selected]), plan.segments, origin)
    files, positions = np.divmod(in_segment, np.asarray([segment.rows_per_file for segment in plan.segments])[segments])
    stored = tuple(
        np.concatenate([_as_stored(row[column], count, part) for row, count in zip(rows, counts, strict=True)])
        for column, part in zip(_PARSED_PARTS, plan.parts, strict=False)
    )
    return _Shuffled(segments, files, positions, stored)


def _count(row: Mapping[str, Any]) -> int:
    """Rows of the source in a Spark row."""
    return len(row["lines"]) // 8


def _locate(
    order: npt.NDArray[np.int64], segments: Sequence[Segment], origin: Split
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Segment of each position in the permuted order, and the position within it."""
    candidates = [number for number, segment in enumerate(segments) if segment.origin == origin]
    candidates.sort(key=lambda number: segments[number].start)
    starts = np.asarray([segments[number].start for number in candidates], dtype=np.int64)
    which = np.searchsorted(starts, order, side="right") - 1
    return np.asarray(candidates, dtype=np.int64)[which], order - starts[which]


def _as_stored(content: pa.Buffer, count: int, part: Part) -> npt.NDArray[np.uint8]:
    values = np.frombuffer(content, np.uint8)
    if len(content) != count * part.num_bytes:
        # Integers in a float table were parsed as uint8.
        values = values.astype("<f4").view(np.uint8)
    return values.reshape(count, part.num_bytes)


def _by_file(rows: _Shuffled, plan: Plan) -> pa.RecordBatch:
    order = np.lexsort((rows.files, rows.segments))
    cuts = np.flatnonzero(np.diff(rows.segments[order]) | np.diff(rows.files[order])) + 1
    step = max(1, VALUES_PER_SPARK_ROW // plan.spec.num_values)
    # A group of rows of one file becomes a Spark row, or several.
    groups = itertools.pairwise([0, *cuts.tolist(), len(order)])
    edges = np.asarray([edge for start, stop in groups for edge in range(start, stop, step)] + [len(order)])
    firsts = order[edges[:-1]]
    values = dict(zip(PART_COLUMNS, rows.parts, strict=False))
    columns = {
        "segment": pa.array(rows.segments[firsts].astype(np.int32)),
        "file": pa.array(rows.files[firsts].astype(np.int32)),
        **{
            name: binary_column(values[name][order], edges) if name in values else pa.nulls(len(firsts), pa.binary())
            for name in PART_COLUMNS
        },
        "positions": binary_column(rows.positions[order], edges),
    }
    return pa.RecordBatch.from_pydict(columns)
