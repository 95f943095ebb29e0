"""Pictures for scoring, read with Python in Spark's workers, because Spark's reader does not open every name."""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from pipelines.errors import DataError
from pipelines.system import connect
from pipelines.system.path_rules import printable

COLUMNS = "path string, modificationTime timestamp, length bigint, content binary"
# Besides the limit of an Arrow batch in rows.
_BYTES_PER_BATCH = 64 * 2**20
_SCHEMA = pa.schema(
    [("path", pa.string()), ("modificationTime", pa.timestamp("us", "UTC")), ("length", pa.int64()), ("content", pa.binary())]
)


def frame(spark: SparkSession, files: Iterable[Path]) -> DataFrame:
    """`COLUMNS` of files, whose names need not be UTF-8; bytes that are not become escapes in the column `path`."""
    names = [(os.fsencode(file),) for file in files]
    partitions = max(1, min(len(names), 4 * connect.parallelism(spark)))
    return spark.createDataFrame(names, "name binary").repartition(partitions).mapInArrow(read, COLUMNS)


def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """From names to `COLUMNS`. Runs in Spark's Python workers.

    Raises:
        DataError: a file cannot be read.
    """
    rows: list[tuple[str, datetime, int, bytes]] = []
    num_bytes = 0
    for batch in batches:
        for name in batch.column(0).to_pylist():
            rows.append(_row(Path(os.fsdecode(name))))
            num_bytes += len(rows[-1][3])
            if num_bytes >= _BYTES_PER_BATCH:
                yield _batch(rows)
                rows, num_bytes = [], 0
        if rows:
            yield _batch(rows)
            rows, num_bytes = [], 0


def _row(path: Path) -> tuple[str, datetime, int, bytes]:
    shown = printable(str(path))
    try:
        content, status = path.read_bytes(), path.stat()
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror}); check its permissions") from error
    return shown, datetime.fromtimestamp(status.st_mtime, timezone.utc), len(content), content


def _batch(rows: list[tuple[str, datetime, int, bytes]]) -> pa.RecordBatch:
    columns = [pa.array(list(values), field.type) for values, field in zip(zip(*rows, strict=True), _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)
