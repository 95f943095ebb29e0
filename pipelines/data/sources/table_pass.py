"""Parsing of the rows of a Spark table in Spark's Python workers, the counterpart of `text_pass` for text."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.data.formats import arrow_images, arrow_targets
from pipelines.data.formats.arrow_targets import Classes
from pipelines.data.formats.chunk import BadLine, Chunk, Fault
from pipelines.data.formats.image_format import ImageFormat
from pipelines.data.sources.parsed_rows import PARSED_COLUMNS, BlockReport, chunk_batches, report_batch
from pipelines.data.sources.table_columns import BLOCK, FILE, ID, INPUT, ROW, SPLIT, TARGET, WEIGHT
from pipelines.errors import DataError
from pipelines.system.path_rules import printable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# A block is the part of a file that one task reads. Its number orders the blocks of a table by file and position.
_BYTES_PER_FILE = 2**42
_SHOWN_NUMBERS = 4
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class TableRules:
    """What a row must be, and where it goes."""

    inputs: ImageFormat
    classes: Classes | None
    """None for regression."""
    num_targets: int
    splits: Mapping[str, int]
    """Number of the source's file with the rows of each split; without a column of splits, of the split ''."""
    file_order: Mapping[str, int] | None
    """Position of each file of the table; None for a table whose rows do not know their files."""


def parsed(rows: "DataFrame", rules: TableRules, keep_bad: bool, images_apart: bool) -> "DataFrame":
    """`PARSED_COLUMNS` of rows with the columns of `pipelines.data.sources.table_columns`."""
    return rows.mapInArrow(partial(read_batches, rules=rules, keep_bad=keep_bad, images_apart=images_apart), PARSED_COLUMNS)


def read_batches(
    batches: Iterable[pa.RecordBatch], rules: TableRules, keep_bad: bool, images_apart: bool
) -> Iterator[pa.RecordBatch]:
    """Map rows to `PARSED_COLUMNS`, with reports at the end of each block: one for each file of the source.

    Args:
        batches: the columns of `pipelines.data.sources.table_columns`; the rows of a block are consecutive and in order.
        rules: what a row must be.
        keep_bad: yield malformed rows, too. Otherwise they are only counted.
        images_apart: one row per Spark row.

    Raises:
        DataError: a row is from a file that the table did not have before.
    """
    reports: dict[int, BlockReport] = {}
    current = -1
    for batch in batches:
        blocks = _blocks(batch, rules)
        edges = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(blocks)] if len(blocks) else [0]
        for start, stop in itertools.pairwise(edges):
            if blocks[start] != current:
                yield from map(report_batch, reports.values())
                reports, current = {}, int(blocks[start])
            part = batch.slice(start, stop - start)
            files, faults = _files(part, rules)
            for file in np.unique(files).tolist():
                rows = np.flatnonzero(files == file)
                report = reports.setdefault(file, BlockReport(file, current))
                of_file = part if len(rows) == len(part) else part.take(pa.array(rows))
                of_splits = {place: faults[row] for place, row in enumerate(rows.tolist()) if row in faults}
                chunk = parse(of_file, rules, of_splits)
                yield from chunk_batches(chunk, report, keep_bad, images_apart)
    yield from map(report_batch, reports.values())


def _blocks(batch: pa.RecordBatch, rules: TableRules) -> npt.NDArray[np.int64]:
    """The block of each row [n]."""
    starts: npt.NDArray[np.int64] = batch.column(BLOCK).to_numpy(zero_copy_only=False).astype(np.int64)
    if rules.file_order is None:
        return starts
    names = batch.column(FILE).dictionary_encode()
    unknown = next((name for name in names.dictionary.to_pylist() if name not in rules.file_order), None)
    if unknown is not None:
        raise DataError(f"{unknown}: was added while the table was read; run again when it is complete")
    positions = np.asarray([rules.file_order[name] for name in names.dictionary.to_pylist()], np.int64)
    blocks: npt.NDArray[np.int64] = positions[names.indices.to_numpy(zero_copy_only=False)] * _BYTES_PER_FILE + starts
    return blocks


def _files(batch: pa.RecordBatch, rules: TableRules) -> tuple[npt.NDArray[np.int64], dict[int, Fault]]:
    """Number of the source's file for each row [n], and the rows that are of no known split."""
    if SPLIT not in batch.schema.names:
        return np.full(len(batch), rules.splits[""], np.int64), {}
    first = next(iter(rules.splits.values()))
    files, faults = np.full(len(batch), first, np.int64), {}
    for row, split in enumerate(batch.column(SPLIT).to_pylist()):
        if split in rules.splits:
            files[row] = rules.splits[split]
        elif split is None:
            faults[row] = Fault("split_missing", "the split is missing (null)")
        else:
            faults[row] = Fault("split_unknown", f"the split {split[:40]!a} is not train, validation or test")
    return files, faults


def parse(batch: pa.RecordBatch, rules: TableRules, faults: arrow_targets.Faults) -> Chunk:
    """Parse rows. Malformed ones do not raise but are part of the result.

    Args:
        batch: rows of one block.
        rules: what a row must be.
        faults: rows that are malformed already.
    """
    decoded = arrow_images.decode(batch.column(INPUT), rules.inputs)
    targets: npt.NDArray[np.int32] | npt.NDArray[np.float32]
    if rules.classes is not None:
        targets, of_targets = arrow_targets.class_indices(batch.column(TARGET), rules.classes)
    else:
        targets, of_targets = arrow_targets.targets(batch.column(TARGET), rules.num_targets)
    weights: npt.NDArray[np.float32] | None = None
    of_weights: arrow_targets.Faults = {}
    if WEIGHT in batch.schema.names:
        weights, of_weights = arrow_targets.weights(batch.column(WEIGHT))
    bad = dict(decoded.errors) | of_weights | of_targets | faults
    good = np.asarray([index not in bad for index in decoded.indices.tolist()], np.bool_)
    lines = decoded.indices[good]
    return Chunk(
        num_lines=len(batch),
        inputs=_stored(decoded.images[good].reshape(len(lines), -1)),
        targets=targets[lines],
        weights=weights[lines] if weights is not None else None,
        lines=lines,
        bad_lines=tuple(_bad_line(batch, row, bad[row]) for row in sorted(bad)),
    )


def _stored(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """As uint8 if all values [n, values] are whole numbers from 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if not values.size or (values.min() >= 0 and values.max() <= 255 and (values == np.floor(values)).all()):
        return values.astype(np.uint8)
    return values.astype(np.float32, copy=False)


def _bad_line(batch: pa.RecordBatch, row: int, fault: Fault) -> BadLine:
    content = batch.column(INPUT)[row].as_py()
    if not isinstance(content, bytes):
        content = json.dumps({"input": content, "target": batch.column(TARGET)[row].as_py()}, default=str).encode()
    file = printable(batch.column(FILE)[row].as_py()) if FILE in batch.schema.names else ""
    return BadLine(row, content, Fault(fault.reason, f"{_name(batch, row)}: {fault.text}"), file)


def _name(batch: pa.RecordBatch, row: int) -> str:
    """What to call a row: its id, its number in its file, or else what is in it."""
    if ID in batch.schema.names:
        return f"row with id {printable(str(batch.column(ID)[row].as_py()))}"
    if ROW in batch.schema.names:
        return f"row {batch.column(ROW)[row].as_py()}"
    inputs, target = batch.column(INPUT)[row].as_py(), batch.column(TARGET)[row].as_py()
    numbers = inputs[:_SHOWN_NUMBERS] if isinstance(inputs, list) else []
    shown = f"{', '.join(map(str, numbers))}{', ...' if len(numbers) == _SHOWN_NUMBERS else ''}" if numbers else ""
    return f"the row with label {target!a}"[:_SHOWN_CHARACTERS] + (f" and features {shown}" if shown else "")
