"""The output of a source: its rows, malformed rows, and a report at the end of each block.

A Spark row holds hundreds of consecutive rows: with one Spark row for each, Spark's overhead per row would exceed all work on
the values.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.formats.chunk import Chunk

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Three kinds of Spark rows. Consecutive rows: the bytes of their inputs, their targets (int32, or float32 for regression), their
# weights (float32; null if the source has none), their line numbers in the block (int64), and in `number` the index of the first
# among the rows of the block. A malformed line: its text, no targets, its line number in the block, and its fault and file as
# note. The end of a block: only a report.
PARSED_COLUMNS = (
    "content binary, targets binary, weights binary, lines binary, file int, block bigint, number bigint, note string"
)
IS_IMAGES, IS_BAD_LINE, IS_REPORT = "note is null", "note is not null and content is not null", "content is null"


class Parse(Protocol):
    """Maps a source's blocks to `PARSED_COLUMNS`. What is not kept is only counted."""

    def __call__(
        self, batches: Iterable[pa.RecordBatch], *, keep_bad_lines: bool, keep_rows: bool
    ) -> Iterator[pa.RecordBatch]: ...


@dataclass(frozen=True)
class Blocks:
    """A source whose rows Spark need not keep between two jobs, because parsing them again costs less."""

    frame: "DataFrame"
    """What tells the blocks of its files."""
    parse: Parse


# Maximum, unless a single row has more.
VALUES_PER_SPARK_ROW = 2**20


@dataclass
class BlockReport:
    """Summary of the lines of one block, the part of a file that one task reads."""

    file: int
    block: int
    lines: int = 0
    rows: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    """Malformed lines by reason."""
    first_bad_line: int = -1
    """Zero-based, counted from the start of the block."""
    first_fault: str = ""
    first_bad_file: str = ""
    """The file of that line, as `BadLine.file`."""
    uses_last_index: bool = False
    """Some image has a nonzero last value, so the file cannot be zero-based."""
    uses_first_index: bool = False
    """Some image has a nonzero first value."""
    is_float: bool = False
    is_weighted: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "BlockReport":
        return cls(**json.loads(text))

    def add(self, chunk: Chunk) -> None:
        if chunk.bad_lines and not self.bad:
            first = chunk.bad_lines[0]
            self.first_bad_line, self.first_fault = self.lines + first.number, first.fault.text
            self.first_bad_file = first.file
        for line in chunk.bad_lines:
            self.bad[line.fault.reason] = self.bad.get(line.fault.reason, 0) + 1
        self.uses_last_index = self.uses_last_index or bool(chunk.inputs[:, -1].any())
        self.uses_first_index = self.uses_first_index or bool(chunk.inputs[:, 0].any())
        self.lines += chunk.num_lines
        self.rows += len(chunk.targets)
        self.is_float = self.is_float or chunk.inputs.dtype != np.uint8
        self.is_weighted = self.is_weighted or chunk.weights is not None


def chunk_batches(
    chunk: Chunk, report: BlockReport, keep_bad_lines: bool, images_apart: bool, keep_rows: bool = True
) -> Iterator[pa.RecordBatch]:
    """A chunk as `PARSED_COLUMNS`. Adds it to the report of its block. What is not kept is only counted."""
    if len(chunk.targets) and keep_rows:
        yield _rows_batch(chunk, report, 1 if images_apart else max(1, VALUES_PER_SPARK_ROW // chunk.inputs.shape[1]))
    if chunk.bad_lines and keep_bad_lines:
        yield _bad_line_batch(chunk, report)
    report.add(chunk)


def _rows_batch(chunk: Chunk, report: BlockReport, rows_per_row: int) -> pa.RecordBatch:
    parts = {"content": chunk.inputs, "targets": chunk.targets, "lines": report.lines + chunk.lines}
    if chunk.weights is not None:
        parts["weights"] = chunk.weights
    starts = range(0, len(chunk.targets), rows_per_row)
    edges = np.append(starts, len(chunk.targets))
    columns = {
        name: binary_column(values.astype(values.dtype.newbyteorder("<"), copy=False), edges) for name, values in parts.items()
    }
    return _batch(report, [report.rows + start for start in starts], [None] * len(starts), columns)


def binary_column(rows: npt.NDArray[Any], edges: npt.NDArray[np.int64]) -> pa.Array:
    """The bytes of consecutive rows, which are not copied.

    Args:
        rows: (rows, ...), less than 2 GB.
        edges: where the values of the column begin among the rows, and where the last one ends.
    """
    rows = np.ascontiguousarray(rows)
    offsets = (edges * (rows.nbytes // max(1, len(rows)))).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(edges) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(rows)])


def _bad_line_batch(chunk: Chunk, report: BlockReport) -> pa.RecordBatch:
    lines = chunk.bad_lines
    notes = [json.dumps(dataclasses.asdict(line.fault) | {"file": line.file}) for line in lines]
    return _batch(
        report,
        [report.lines + line.number for line in lines],
        notes,
        {"content": pa.array([line.raw for line in lines], pa.binary())},
    )


def report_batch(report: BlockReport) -> pa.RecordBatch:
    """The row of `PARSED_COLUMNS` that ends a block."""
    return _batch(report, [0], [report.to_json()], {})


def _batch(
    report: BlockReport, numbers: Sequence[int], notes: Sequence[str | None], parts: Mapping[str, pa.Array]
) -> pa.RecordBatch:
    count = len(numbers)
    columns = {
        **{name: parts.get(name, pa.nulls(count, pa.binary())) for name in ("content", "targets", "weights", "lines")},
        "file": pa.array([report.file] * count, pa.int32()),
        "block": pa.array([report.block] * count, pa.int64()),
        "number": pa.array(numbers, pa.int64()),
        "note": pa.array(notes, pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)


def union(frames: Sequence["DataFrame"]) -> "DataFrame":
    """All rows of some frames with the same columns."""
    # In halves: Spark's recursion would overflow its stack on a chain of hundreds of parts.
    if len(frames) == 1:
        return frames[0]
    middle = len(frames) // 2
    return union(frames[:middle]).union(union(frames[middle:]))
