"""Parsing of libsvm text in Spark's Python workers: Arrow batches of lines to Arrow batches of images."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.formats import libsvm
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.formats.text_file import DENSE_BYTES, TEXT_BYTES
from pipelines.data.sources import text_blocks
from pipelines.data.sources.parsed_rows import PARSED_COLUMNS, BlockReport, chunk_batches, report_batch, union
from pipelines.system import path_rules, paths

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TEXT_COLUMNS = ("value", "file", "block")


def parsed(spark: "SparkSession", uris: Sequence[str], rules: Rules, keep_bad_lines: bool, images_apart: bool) -> "DataFrame":
    """`PARSED_COLUMNS` of text files. Raises OSError if one is missing."""
    ordinary, unusual = [], []
    for number, uri in enumerate(uris):
        path = paths.to_python(uri)
        if path_rules.spark_file_fault(str(path)):
            unusual.append((number, path))
        else:
            ordinary.append((number, uri))
    frames = []
    if ordinary:
        parse = partial(parse_batches, rules=rules, keep_bad_lines=keep_bad_lines, images_apart=images_apart)
        frames.append(_lines(spark, ordinary).mapInArrow(parse, PARSED_COLUMNS))
    if unusual:
        frames.append(text_blocks.parsed(spark, unusual, rules, keep_bad_lines, images_apart))
    return union(frames)


def _lines(spark: "SparkSession", files: Sequence[tuple[int, str]]) -> "DataFrame":
    """`TEXT_COLUMNS` of files, each given with its number."""
    frames = [
        # Paths may contain glob characters such as brackets.
        spark.read.option("__globPaths__", "false")
        # By default Spark also ends lines at carriage returns, unlike the format.
        .option("lineSep", "\n")
        .text(paths.to_spark(uri))
        .selectExpr("value", f"{number} AS file", "_metadata.file_block_start AS block")
        for number, uri in files
    ]
    return union(frames)


def parse_batches(
    batches: Iterable[pa.RecordBatch], rules: Rules, keep_bad_lines: bool, images_apart: bool
) -> Iterator[pa.RecordBatch]:
    """Map lines to images, with a report at the end of each block.

    Args:
        batches: columns value (a line), file (its number), block (its block's offset in the file); the lines of a block are
            consecutive and in order.
        rules: what a line may contain.
        keep_bad_lines: yield malformed lines, too. Otherwise they are only counted.
        images_apart: one image per Spark row.

    Yields:
        `PARSED_COLUMNS` (`pipelines.data.sources.parsed_rows`); numbers start at 0 in each block. The images of a Spark row have
        1 or 4 bytes per value (uint8, float32).
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
                yield from chunk_batches(libsvm.parse(text, rules), report, keep_bad_lines, images_apart)
    if report is not None:
        yield report_batch(report)


def _runs(files: npt.NDArray[np.int32], blocks: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(start, stop) of each run of lines of the same file and block."""
    if not len(files):
        return []
    cuts = np.flatnonzero((files[1:] != files[:-1]) | (blocks[1:] != blocks[:-1])) + 1
    edges = [0, *cuts.tolist(), len(files)]
    return list(itertools.pairwise(edges))


def _texts(lines: pa.Array, num_values: int) -> Iterator[memoryview]:
    """The lines joined to pieces of text, in which every line ends in a newline."""
    # binary, because the text may not be UTF-8; large, because Spark can be configured to send either width of offsets.
    lines = pc.cast(lines, pa.large_binary())
    total = pc.sum(pc.binary_length(lines)).as_py() + len(lines)
    step = max(1, min(TEXT_BYTES * len(lines) // total, DENSE_BYTES // num_values))
    newline, nothing = pa.scalar(b"\n", pa.large_binary()), pa.array([b""], pa.large_binary())
    for start in range(0, len(lines), step):
        part = pa.concat_arrays([lines.slice(start, step), nothing])
        yield memoryview(pc.binary_join(pa.ListArray.from_arrays([0, len(part)], part), newline)[0].as_buffer())
