"""The Parquet files of a folder: all of them and nothing else, or a line that says why not.

Spark by itself reads sub-folders or leaves them out by their names.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.data.formats.file_kind import files_by_kind
from pipelines.data.sources.parquet_reader import read_parquet
from pipelines.errors import ConfigError
from pipelines.system import path_rules, paths

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Folders with which other programs say which files of a table count: Delta Lake, Hudi, and Spark's Structured Streaming.
_LOGS = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table", "_spark_metadata": "the output of a stream"}


def find(location: str) -> tuple[Path, ...]:
    """A file, or the Parquet files in a folder and its sub-folders, in the order of their paths.

    Raises:
        ConfigError: Spark cannot open a file of that name, partitions are mixed with other folders, or the folder is a table of
            which not every file counts.
        DataError: a symbolic link in the folder leads nowhere or in a circle.
        OSError: a folder cannot be read.
    """
    root = paths.to_python(location)
    files = tuple(files_by_kind(root).get("parquet", ()))
    for file in files:
        fault = path_rules.fault(str(file)) or path_rules.spark_file_fault(str(file))
        if fault:
            raise ConfigError(f"--data {path_rules.printable(str(file))}: {fault}")
    if not root.is_file():
        _refuse_logs(root, files)
        _check_partitions(root, files)
    return files


def read(spark: "SparkSession", location: str) -> "DataFrame":
    """The rows of all these files, in the columns that any of them has.

    Raises:
        ConfigError: see `find`; or there are none.
        PySparkException, Py4JJavaError: Spark cannot read a file (`explain`).
    """
    files = find(location)
    if not files:
        raise ConfigError(f"--data {location}: contains no Parquet files")
    root = location if paths.to_python(location).is_dir() else ""
    return read_parquet(spark, [str(file) for file in files], root, columns_of_all_files=len(files) > 1)


def explain(files: Iterable[Path], reason: str) -> str:
    """What to do about a message of Spark's about these files; empty if that is not known."""
    if "NANOS" in reason:
        return "write the timestamps in microseconds, which Spark can read"
    if "COLUMN_ALREADY_EXISTS" in reason or re.search("[Aa]mbiguous", reason):
        return "Spark does not tell upper from lower case; rename or drop one of the columns"
    if "FAILED_MERGE" in reason or "Failed to merge" in reason or "Failed merging" in reason:
        return "write the column with one type in all files"
    # Spark names the file at most.
    sidecars = (file.with_name(f".{file.name}.crc") for file in files if file.name in reason)
    sidecar = next((path for path in sidecars if path.exists()), None)
    return f"copy the file again, or delete its checksum file {sidecar} if it was changed on purpose" if sidecar else ""


def _refuse_logs(root: Path, files: Iterable[Path]) -> None:
    inside = {folder for file in files for folder in file.parents if folder.is_relative_to(root)}
    for folder in (*sorted(inside), root, *root.absolute().parents):
        kind = next((kind for name, kind in _LOGS.items() if (folder / name).is_dir()), "")
        if not kind and any((folder / "metadata").glob("*.metadata.json")):
            kind = "an Iceberg table"
        if kind:
            raise ConfigError(
                f"--data {folder}: is {kind}, in which files may lie that do not belong to it any more; read it with its own "
                "reader (table:NAME, delta:PATH, ...), or write its rows to a folder of plain Parquet"
            )


def _check_partitions(root: Path, files: Sequence[Path]) -> None:
    """Spark silently drops files that are beside the folders of partitions."""
    keys = {file: _keys(file.relative_to(root).parent) for file in files}
    if all(found == () for found in keys.values()):
        return
    first = next(file for file in files if keys[file] != ())
    for file in files:
        if keys[file] is None or keys[file] != keys[first]:
            raise ConfigError(
                f"--data {file}: lies in other folders than {first}; either all files lie in folders of the same partitions "
                "(KEY=VALUE), or none does"
            )


def _keys(folder: Path) -> tuple[str, ...] | None:
    """Names of the partitions that a folder belongs to; none if no part of it is one; None for a mixture."""
    named = [part.partition("=")[0].lower() for part in folder.parts if "=" in part]
    return tuple(named) if len(named) in (0, len(folder.parts)) else None
