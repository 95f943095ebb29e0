"""The two passes over the rows that run in Spark's Python workers, from Arrow batch to Arrow batch.

`parse_batches` turns text into images and reports what it met; `place_batches` gives every row its place in the table.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.ingest import libsvm
from pipelines.ingest.line import Reason, Rules
from pipelines.ingest.order import Permutation, Segment
from pipelines.schema import BYTES_PER_VALUE, Dtype

TEXT_COLUMNS = ("value", "file", "block")
# Three kinds of rows. An image: its bytes, its label, its number among the images of its block and its line among the lines. A
# bad line that is kept: its text, no label, its number among the lines of its block, and its fault as note. The end of a block:
# nothing but a report.
PARSED_COLUMNS = "content binary, label int, file int, block bigint, number bigint, note string, line bigint"
IS_IMAGE, IS_BAD_LINE, IS_REPORT = "note is null", "note is not null and content is not null", "content is null"
PLACED_COLUMNS = "image binary, label int, split string, file int, place bigint"

# A quarter of a megabyte of text and its tokens stay in the processor's cache: measured the fastest from 128 KB to 4 MB.
_TEXT_BYTES = 2**18
_DENSE_BYTES = 32 * 2**20


@dataclass
class BlockReport:
    """What the lines of one block (a piece of one file that one task reads) held, once all of them are read."""

    file: int
    block: int
    lines: int = 0
    rows: int = 0
    bad: dict[Reason, int] = field(default_factory=dict)
    """Malformed lines by reason."""
    first_bad_line: int = -1
    """Zero-based, counted from the start of the block."""
    first_fault: str = ""
    uses_last_index: bool = False
    """Some image has a value that is not 0 at its last place, so that the file cannot be zero-based."""
    is_float: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @property
    def bad_lines(self) -> int:
        return sum(self.bad.values())

    @classmethod
    def from_json(cls, text: str) -> "BlockReport":
        return cls(**json.loads(text))

    def add(self, chunk: libsvm.Chunk) -> None:
        if chunk.bad_lines and not self.bad:
            first = chunk.bad_lines[0]
            self.first_bad_line, self.first_fault = self.lines + first.number, first.fault.text
        for line in chunk.bad_lines:
            self.bad[line.fault.reason] = self.bad.get(line.fault.reason, 0) + 1
        self.uses_last_index = self.uses_last_index or bool(chunk.images[:, -1].any())
        self.lines += chunk.num_lines
        self.rows += len(chunk.labels)
        self.is_float = self.is_float or chunk.images.dtype != np.uint8


def parse_batches(batches: Iterable[pa.RecordBatch], rules: Rules, keep_bad_lines: bool) -> Iterator[pa.RecordBatch]:
    """Lines to images, and one row with a report behind each block.

    Args:
        batches: columns value (a line), file (its number), block (where its block starts in the file); the lines of a
            block follow each other in the order of the text.
        rules: what a line may hold.
        keep_bad_lines: yield them, too. Otherwise they are only counted.

    Yields:
        `PARSED_COLUMNS`; numbers count from 0 in each block. An image has 1 or 4 bytes per value (uint8, float32).
    """
    report: BlockReport | None = None
    for batch in batches:
        files, blocks = batch.column(1).to_numpy(), batch.column(2).to_numpy()
        for start, stop in _runs(files, blocks):
            file, block = int(files[start]), int(blocks[start])
            if report is None or (report.file, report.block) != (file, block):
                if report is not None:
                    yield report_batch(report)
                report = BlockReport(file, block)
            for text in _texts(batch.column(0).slice(start, stop - start), rules.num_values):
                yield from chunk_batches(libsvm.parse(text, rules), report, keep_bad_lines)
    if report is not None:
        yield report_batch(report)


def chunk_batches(chunk: libsvm.Chunk, report: BlockReport, keep_bad_lines: bool) -> Iterator[pa.RecordBatch]:
    """What was read, as `PARSED_COLUMNS`, and added to the report of its block."""
    if len(chunk.labels):
        yield _image_batch(chunk, report)
    if chunk.bad_lines and keep_bad_lines:
        yield _bad_line_batch(chunk, report)
    report.add(chunk)


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
    dtype: Dtype


def place_batches(batches: Iterable[pa.RecordBatch], plan: Plan) -> Iterator[pa.RecordBatch]:
    """The images of `PARSED_COLUMNS` to `PLACED_COLUMNS`: each in the table's dtype, with split, file and place."""
    for batch in batches:
        files, blocks, rows = (batch.column(i).to_numpy() for i in (2, 3, 4))
        for start, stop in _runs(files, blocks):
            file = int(files[start])
            numbers = plan.first_row[file, int(blocks[start])] + rows[start:stop]
            is_test = file in plan.test_files
            places = (plan.test_order if is_test else plan.train_order)(numbers)
            segments = [segment for segment in plan.segments if segment.from_test_file == is_test]
            segments.sort(key=lambda segment: segment.start)
            which = np.searchsorted([segment.start for segment in segments], places, side="right") - 1
            in_segment = places - np.asarray([segment.start for segment in segments])[which]
            yield pa.RecordBatch.from_arrays(
                [
                    _as_dtype(batch.column(0).slice(start, stop - start), plan),
                    batch.column(1).slice(start, stop - start),
                    pa.array(np.asarray([segment.split for segment in segments], object)[which], pa.string()),
                    pa.array((in_segment // np.asarray([s.rows_per_file for s in segments])[which]).astype(np.int32)),
                    pa.array(in_segment),
                ],
                ["image", "label", "split", "file", "place"],
            )


def _runs(files: npt.NDArray[np.int32], blocks: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(start, stop) of the stretches with one file and block."""
    if not len(files):
        return []
    cuts = np.flatnonzero((files[1:] != files[:-1]) | (blocks[1:] != blocks[:-1])) + 1
    edges = [0, *cuts.tolist(), len(files)]
    return list(itertools.pairwise(edges))


def _texts(lines: pa.Array, num_values: int) -> Iterator[memoryview]:
    """The lines as stretches of text, each of its lines closed by a newline."""
    # As bytes, because the text may not be UTF-8; large, because Spark can be set to send either width of offsets.
    lines = pc.cast(lines, pa.large_binary())
    total = pc.sum(pc.binary_length(lines)).as_py() + len(lines)
    step = max(1, min(_TEXT_BYTES * len(lines) // total, _DENSE_BYTES // num_values))
    newline, nothing = pa.scalar(b"\n", pa.large_binary()), pa.array([b""], pa.large_binary())
    for start in range(0, len(lines), step):
        part = pa.concat_arrays([lines.slice(start, step), nothing])
        yield memoryview(pc.binary_join(pa.ListArray.from_arrays([0, len(part)], part), newline)[0].as_buffer())


def _image_batch(chunk: libsvm.Chunk, report: BlockReport) -> pa.RecordBatch:
    count = len(chunk.labels)
    numbers = np.arange(report.rows, report.rows + count)
    lines = pa.array(report.lines + chunk.lines)
    return _batch(report, _binary(chunk.images), pa.array(chunk.labels), numbers, pa.nulls(count, pa.string()), lines)


def _bad_line_batch(chunk: libsvm.Chunk, report: BlockReport) -> pa.RecordBatch:
    lines = chunk.bad_lines
    raw = pa.array([line.raw for line in lines], pa.binary())
    numbers = np.asarray([report.lines + line.number for line in lines])
    notes = pa.array([json.dumps(dataclasses.asdict(line.fault)) for line in lines])
    return _batch(report, raw, pa.nulls(len(lines), pa.int32()), numbers, notes)


def report_batch(report: BlockReport) -> pa.RecordBatch:
    """The row of `PARSED_COLUMNS` that ends a block."""
    return _batch(report, pa.nulls(1, pa.binary()), pa.nulls(1, pa.int32()), np.zeros(1, np.int64), pa.array([report.to_json()]))


def _batch(
    report: BlockReport,
    content: pa.Array,
    labels: pa.Array,
    numbers: npt.NDArray[np.int64],
    notes: pa.Array,
    lines: pa.Array | None = None,
) -> pa.RecordBatch:
    count = len(content)
    files = pa.array(np.full(count, report.file, np.int32))
    blocks = pa.array(np.full(count, report.block, np.int64))
    columns = [content, labels, files, blocks, pa.array(numbers), notes, pa.nulls(count, pa.int64()) if lines is None else lines]
    return pa.RecordBatch.from_arrays(columns, ["content", "label", "file", "block", "number", "note", "line"])


def _binary(images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> pa.Array:
    row_bytes = images.shape[1] * images.itemsize
    offsets = np.arange(len(images) + 1, dtype=np.int32) * np.int32(row_bytes)
    data = images.astype(images.dtype.newbyteorder("<"), copy=False)
    return pa.Array.from_buffers(pa.binary(), len(images), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _as_dtype(images: pa.Array, plan: Plan) -> pa.Array:
    lengths = pc.binary_length(images).to_numpy()
    wanted = plan.num_values * BYTES_PER_VALUE[plan.dtype]
    if (lengths == wanted).all():
        return images
    # A chunk of whole numbers in a table of floats: its images were parsed as uint8.
    return pa.array(
        [
            image if len(image) == wanted else np.frombuffer(image, np.uint8).astype("<f4").tobytes()
            for image in images.to_pylist()
        ],
        pa.binary(),
    )
