"""Libsvm text read with Python in Spark's workers, block by block.

For files that Spark's reader skips or cannot open because of their names, and for those that are not compressed: Spark would take
longer to hand over their lines than the compiled parser takes to read them.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.data.formats import libsvm, text_file
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.sources.parsed_rows import PARSED_COLUMNS, BlockReport, chunk_batches, report_batch
from pipelines.system import connect

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_COLUMNS = "path string, file int, start bigint, stop bigint"
_BLOCK_BYTES = 32 * 2**20


def parsed(
    spark: "SparkSession", files: Sequence[tuple[int, Path]], rules: Rules, keep_bad_lines: bool, images_apart: bool
) -> "DataFrame":
    """`PARSED_COLUMNS` of text files, each given with its number. Raises OSError if one is missing."""
    read = partial(read_blocks, rules=rules, keep_bad_lines=keep_bad_lines, images_apart=images_apart)
    return blocks_of(spark, files).mapInArrow(read, PARSED_COLUMNS)


def blocks_of(spark: "SparkSession", files: Sequence[tuple[int, Path]]) -> "DataFrame":
    """The blocks of text files, each given with its number. Raises OSError if one is missing."""
    blocks = []
    for number, path in files:
        # The members of a compressed file have no boundaries that a reader could find.
        size = path.stat().st_size if path.suffix not in (".gz", ".bz2") else 1
        blocks += [
            (str(path), number, start, start + _BLOCK_BYTES if start + _BLOCK_BYTES < size else -1)
            for start in range(0, max(size, 1), _BLOCK_BYTES)
        ]
    return spark.createDataFrame(blocks, _COLUMNS).repartition(min(len(blocks), 4 * connect.parallelism(spark)))


def read_blocks(
    batches: Iterable[pa.RecordBatch], rules: Rules, keep_bad_lines: bool, images_apart: bool, keep_rows: bool = True
) -> Iterator[pa.RecordBatch]:
    """Map blocks of files to images, with a report at the end of each block. A line belongs to the block in which it begins."""
    for batch in batches:
        for row in batch.to_pylist():
            report = BlockReport(row["file"], row["start"])
            for text in text_file.pieces(Path(row["path"]), rules.num_values, row["start"], row["stop"]):
                yield from chunk_batches(libsvm.parse(text, rules), report, keep_bad_lines, images_apart, keep_rows)
            yield report_batch(report)
