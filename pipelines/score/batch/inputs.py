"""Detect and read the inputs of batch scoring: Convoy's tables, other Parquet, folders of images, libsvm text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.data.formats.file_kind import FileKind, files_by_kind
from pipelines.data.ingest import spark_jobs
from pipelines.data.sources import parquet_files, parquet_reader
from pipelines.data.sources.column_types import INPUT_KINDS, column_kind
from pipelines.data.sources.frames import open_frame, quoted
from pipelines.data.sources.resolve import NAMES
from pipelines.data.table import row_parts
from pipelines.data.table.schema import MANIFEST_NAME
from pipelines.errors import ConfigError, DataError
from pipelines.score.batch import picture_files
from pipelines.score.batch.scoring import ScoringInput
from pipelines.score.evaluate.compatibility import check_compatible
from pipelines.score.evaluate.dataset import open_table
from pipelines.score.model_info import ModelInfo
from pipelines.system import listing, paths, spark_location

Kind = Literal["table", "parquet", "frame", "images", "libsvm"]
_ORIGIN, _ROW, _INPUT, _METADATA = "__origin", "__row", "__input", "_metadata"


def detect_kind(location: str) -> Kind:
    """The kind of input at a location. Needs no Spark.

    Raises:
        ConfigError: there is nothing there that can be scored.
    """
    if location in NAMES:
        return "libsvm"
    of_spark = spark_location.parse(location)
    if of_spark is not None and (of_spark.kind != "parquet" or not of_spark.is_path):
        return "frame"
    path = paths.to_python(of_spark.name if of_spark is not None else location, "--data ")
    if not path.exists() and not listing.matching(path):
        raise ConfigError(
            f"--data {location}: no such file or folder ({path}); it takes libsvm, Parquet, images, a data set's name, "
            "table:NAME or FORMAT:PATH"
        )
    if (path / MANIFEST_NAME).exists():
        return "table"
    found: dict[FileKind, list[Path]] = {}
    try:
        for each in listing.matching(path) or [path]:
            for kind, files in files_by_kind(each).items():
                found.setdefault(kind, []).extend(files)
    except OSError as error:
        raise DataError(f"--data {location}: {error.filename}: cannot be read ({error.strerror})") from error
    counts: dict[Kind, int] = {
        "parquet": len(found.get("parquet", ())),
        "images": len(found.get("picture", ())),
        "libsvm": len(found.get("libsvm", ())),
    }
    kinds = [kind for kind, count in counts.items() if count]
    if len(kinds) != 1:
        content = " and ".join(f"{counts[kind]} of kind {kind}" for kind in kinds) or "neither libsvm nor Parquet nor images"
        raise ConfigError(f"--data {location}: contains {content}; it must contain files of one kind")
    if kinds == ["parquet"]:
        parquet_files.find(str(path))
    return kinds[0]


def read_table(spark: SparkSession, location: str, info: ModelInfo) -> ScoringInput:
    """All rows of a table.

    Raises:
        DataError: its images do not fit the model, or it is damaged.
    """
    manifest = open_table(location).manifest
    check_compatible(info, manifest, location)
    base = location.rstrip("/")
    files = [f"{base}/{file.path}" for split in manifest.splits.values() for file in split.files]
    frame = parquet_reader.read_parquet(spark, files, location)
    return _with_row_ids(frame, row_parts.of_table(manifest)[0].column, tuple(frame.columns))


def read_parquet(spark: SparkSession, location: str, columns: Sequence[str]) -> ScoringInput:
    """Parquet from any writer: all files of a folder and its sub-folders, in the columns that any of them has.

    Args:
        spark: reads it.
        location: a file or a folder.
        columns: the column that the model takes, or several columns of numbers; see `_with_input`.

    Raises:
        ConfigError: there is no such column, or it has another type.
        DataError: Spark cannot read a file.
    """
    files = parquet_files.find(location)
    try:
        frame = parquet_files.read(spark, location)
    except (Py4JJavaError, PySparkException) as error:
        failure = spark_jobs.as_data_error(error, f"{location}: Spark cannot read the Parquet")
        remedy = parquet_files.explain(files, str(failure))
        raise DataError(f"{failure}; {remedy}" if remedy else str(failure)) from error
    rows, image = _with_input(frame, columns, location)
    return _with_row_ids(rows, image, tuple(frame.columns))


def read_frame(spark: SparkSession, location: str, columns: Sequence[str], row_id: str) -> ScoringInput:
    """The rows of a Spark table, or of files in another format that Spark reads.

    Args:
        spark: reads it.
        location: `table:NAME` or `FORMAT:PATH`.
        columns: the column that the model takes, or several columns of numbers; see `_with_input`.
        row_id: the column by which messages call a row, or empty.

    Raises:
        ConfigError: there is no such table or column, or the column has another type.
        DataError: Spark cannot read it.
    """
    frame = open_frame(spark, location)
    rows, image = _with_input(frame.rows, columns, location)
    kept = tuple(frame.rows.columns)
    if row_id or not frame.has_files:
        name = F.concat(F.lit(": row with id "), F.col(quoted(row_id)).cast("string")) if row_id else F.lit("")
        rows = rows.withColumn(_ORIGIN, F.concat(F.lit(location), name)).withColumn(_ROW, F.lit(-1).cast("long"))
        return ScoringInput(rows, image, kept, _ORIGIN, _ROW)
    return _with_row_ids(rows, image, kept, has_index=frame.has_row_index)


def _with_input(frame: DataFrame, columns: Sequence[str], location: str) -> tuple[DataFrame, str]:
    """The rows, and the name of the column with what the model takes: one of `INPUT_KINDS`, or made of several of numbers."""
    kinds = {field.name: column_kind(field.dataType.jsonValue()) for field in frame.schema.fields}
    for name in columns:
        if name not in kinds:
            raise ConfigError(f"--image-column {name}: {location} has no such column; it has {', '.join(frame.columns)}")
    if all(kinds[name] in ("number", "boolean") for name in columns):
        return frame.withColumn(_INPUT, F.array(*[F.col(quoted(name)).cast("double") for name in columns])), _INPUT
    wrong = next((name for name in columns if len(columns) > 1 or kinds[name] not in INPUT_KINDS), None)
    if wrong is None:
        return frame, columns[0]
    raise ConfigError(
        f"--image-column {wrong}: has type {frame.schema[wrong].dataType.simpleString()}; it must be binary (raw values or an "
        "encoded image), a list of numbers, a vector, a struct with a field 'bytes', or one of several columns of numbers"
    )


def read_images(spark: SparkSession, location: str) -> ScoringInput:
    """Images of a folder and its subfolders, with path, size and modification time. Raises DataError if it cannot be read."""
    files = files_by_kind(paths.to_python(location))["picture"]
    frame = picture_files.frame(spark, files).withColumn(_ORIGIN, F.col("path")).withColumn(_ROW, F.lit(-1).cast("long"))
    return ScoringInput(frame, "content", ("path", "modificationTime", "length"), _ORIGIN, _ROW)


def _with_row_ids(frame: DataFrame, image: str, kept: tuple[str, ...], *, has_index: bool = True) -> ScoringInput:
    taken = next((name for name in kept if name.lower() in (_ORIGIN, _ROW, _INPUT, _METADATA)), "")
    if taken:
        raise ConfigError(f"the input has a column '{taken}', a name that is needed to number its rows; rename or drop it first")
    # Spark percent-encodes the paths in this column.
    origin = F.expr(f"regexp_replace(url_decode(replace({_METADATA}.file_path, '+', '%2B')), '^file:/+', '/')")
    frame = frame.withColumn(_ORIGIN, origin)
    frame = frame.withColumn(_ROW, F.col(f"{_METADATA}.row_index") if has_index else F.lit(-1).cast("long"))
    return ScoringInput(frame, image, kept, _ORIGIN, _ROW)
