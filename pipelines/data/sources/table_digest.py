"""The fingerprint of a Spark table: of its version, of its files, or of its rows, by what Spark knows about it."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pipelines.data.sources.frames import Frame
from pipelines.data.sources.table_columns import BLOCK, FILE, ROW
from pipelines.system import connect
from pipelines.system.fingerprint import Fingerprint, fingerprint, json_sha256

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# The content of larger tables is not read twice: the sizes and times of their files stand for it.
_MAX_BYTES = 2**30
_PARTS_PER_CORE = 4
_METADATA = ("file_path", "file_size", "file_modification_time")


def of_frame(frame: Frame, expressions: Sequence[str]) -> Fingerprint:
    """The fingerprint of a table.

    Args:
        frame: the table.
        expressions: the columns that are used.

    Raises:
        OSError: a file of this machine's cannot be read.
        PySparkException, Py4JJavaError: Spark cannot read the table.
    """
    if frame.version:
        return Fingerprint(0, json_sha256({"location": frame.location, "version": frame.version}))
    if not frame.has_files:
        return _of_rows(frame.rows.selectExpr(*expressions))
    files = [Path(name) for name in file_order(frame)]
    if not all(path.is_absolute() and path.is_file() for path in files):
        return _of_listing(frame)
    sizes = [path.stat().st_size for path in files]
    root = os.path.commonpath([path.parent for path in files]) if files else ""
    total = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        content = fingerprint(path).sha256 if sum(sizes) <= _MAX_BYTES else f"{size} {path.stat().st_mtime_ns} {path.name}"
        # Sub-folders KEY=VALUE are columns. The names of the files are none: Spark makes them up.
        total.update(f"{content} {path.parent.relative_to(root)}\n".encode("utf-8", "surrogateescape"))
    return Fingerprint(sum(sizes), total.hexdigest())


def _of_listing(frame: Frame) -> Fingerprint:
    """By the names, sizes and times of files that Spark alone sees."""
    files = sorted(tuple(row) for row in frame.rows.selectExpr(*(f"_metadata.{name}" for name in _METADATA)).distinct().collect())
    return Fingerprint(sum(size for _, size, _ in files), json_sha256({"files": [list(map(str, file)) for file in files]}))


def _of_rows(rows: "DataFrame") -> Fingerprint:
    """By the content of the rows, in any order."""
    names = ", ".join(rows.columns)
    found = rows.selectExpr(f"cast(xxhash64({names}) AS decimal(38, 0)) AS h").selectExpr("count(*)", "cast(sum(h) AS string)")
    count, total = found.collect()[0]
    return Fingerprint(0, json_sha256({"rows": count, "hashes": total, "schema": json.loads(rows.schema.json())}))


def file_order(frame: Frame) -> dict[str, int]:
    """Position of each file of a table, by the value of its column `FILE`."""
    names = {re.sub("^file:/+", "/", unquote(uri, errors="surrogateescape")) for uri in frame.rows.inputFiles()}
    return {name: number for number, name in enumerate(sorted(names))}


def numbered(frame: Frame, expressions: Sequence[str]) -> "DataFrame":
    """The columns that are used and those that say where a row is from, so that the order of rows depends on the table alone.

    Rows of files have an order. Others are sorted by their content.
    """
    if frame.has_files:
        name = f"regexp_replace(url_decode(replace(_metadata.file_path, '+', '%2B')), '^file:/+', '/') AS {FILE}"
        index = [f"_metadata.row_index AS {ROW}"] if frame.has_row_index else []
        return frame.rows.selectExpr(*expressions, name, f"_metadata.file_block_start AS {BLOCK}", *index)
    rows = frame.rows.selectExpr(*expressions)
    names = ", ".join(rows.columns)
    hashed = rows.selectExpr("*", f"xxhash64({names}) AS h1", f"hash({names}) AS h2")
    # Spark would divide them into 200 parts, however few they are.
    parts = _PARTS_PER_CORE * connect.parallelism(rows.sparkSession)
    ordered = hashed.repartitionByRange(parts, "h1", "h2").sortWithinPartitions("h1", "h2").drop("h1", "h2")
    return ordered.selectExpr("*", f"cast(spark_partition_id() AS bigint) AS {BLOCK}")
