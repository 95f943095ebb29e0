"""The output of a source: images, malformed rows, and a report at the end of each block.

A Spark row holds hundreds of consecutive images: with one Spark row per image, Spark's overhead per row would exceed all work on
the images.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.data.formats.chunk import Chunk

# Three kinds of Spark rows. Consecutive images: their bytes, their labels (int32), their line numbers in the block (int64), and
# in `number` the index of the first among the images of the block. A malformed line: its text, no labels, its line number in the
# block, and its fault as note. The end of a block: only a report.
PARSED_COLUMNS = "content binary, labels binary, lines binary, file int, block bigint, number bigint, note string"
IS_IMAGES, IS_BAD_LINE, IS_REPORT = "note is null", "note is not null and content is not null", "content is null"

# Maximum, unless a single image has more.
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
    uses_last_index: bool = False
    """Some image has a nonzero last value, so the file cannot be zero-based."""
    uses_first_index: bool = False
    """Some image has a nonzero first value."""
    is_float: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "BlockReport":
        return cls(**json.loads(text))

    def add(self, chunk: Chunk) -> None:
        if chunk.bad_lines and not self.bad:
            first = chunk.bad_lines[0]
            self.first_bad_line, self.first_fault = self.lines + first.number, first.fault.text
        for line in chunk.bad_lines:
            self.bad[line.fault.reason] = self.bad.get(line.fault.reason, 0) + 1
        self.uses_last_index = self.uses_last_index or bool(chunk.images[:, -1].any())
        self.uses_first_index = self.uses_first_index or bool(chunk.images[:, 0].any())
        self.lines += chunk.num_lines
        self.rows += len(chunk.labels)
        self.is_float = self.is_float or chunk.images.dtype != np.uint8


def chunk_batches(chunk: Chunk, report: BlockReport, keep_bad_lines: bool, images_apart: bool) -> Iterator[pa.RecordBatch]:
    """A chunk as `PARSED_COLUMNS`. Adds it to the report of its block."""
    if len(chunk.labels):
        yield _images_batch(chunk, report, 1 if images_apart else max(1, VALUES_PER_SPARK_ROW // chunk.images.shape[1]))
    if chunk.bad_lines and keep_bad_lines:
        yield _bad_line_batch(chunk, report)
    report.add(chunk)


def _images_batch(chunk: Chunk, report: BlockReport, images_per_row: int) -> pa.RecordBatch:
    images, labels = chunk.images.astype(chunk.images.dtype.newbyteorder("<"), copy=False), chunk.labels.astype("<i4", copy=False)
    lines = (report.lines + chunk.lines).astype("<i8", copy=False)
    starts = range(0, len(labels), images_per_row)
    content, label_bytes, line_bytes = (
        [values[start : start + images_per_row].tobytes() for start in starts] for values in (images, labels, lines)
    )
    return _batch(report, content, [report.rows + start for start in starts], [None] * len(starts), label_bytes, line_bytes)


def _bad_line_batch(chunk: Chunk, report: BlockReport) -> pa.RecordBatch:
    lines = chunk.bad_lines
    notes = [json.dumps(dataclasses.asdict(line.fault)) for line in lines]
    return _batch(report, [line.raw for line in lines], [report.lines + line.number for line in lines], notes)


def report_batch(report: BlockReport) -> pa.RecordBatch:
    """The row of `PARSED_COLUMNS` that ends a block."""
    return _batch(report, [None], [0], [report.to_json()])


def _batch(
    report: BlockReport,
    content: Sequence[bytes | None],
    numbers: Sequence[int],
    notes: Sequence[str | None],
    labels: Sequence[bytes] | None = None,
    lines: Sequence[bytes] | None = None,
) -> pa.RecordBatch:
    nothing = [None] * len(content)
    columns = {
        "content": pa.array(content, pa.binary()),
        "labels": pa.array(labels or nothing, pa.binary()),
        "lines": pa.array(lines or nothing, pa.binary()),
        "file": pa.array([report.file] * len(content), pa.int32()),
        "block": pa.array([report.block] * len(content), pa.int64()),
        "number": pa.array(numbers, pa.int64()),
        "note": pa.array(notes, pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)
