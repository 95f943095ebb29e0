"""Detect and read the inputs of batch scoring: Convoy's tables, other Parquet, folders of images, libsvm text."""

from typing import Literal

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.data.formats.file_kind import files_by_kind
from pipelines.data.ingest import spark_jobs
from pipelines.data.sources import parquet_files
from pipelines.data.sources.resolve import NAMES
from pipelines.data.table.schema import MANIFEST_NAME
from pipelines.errors import ConfigError, DataError
from pipelines.score.batch import picture_files
from pipelines.score.batch.scoring import ScoringInput, quoted
from pipelines.score.evaluate.compatibility import check_compatible
from pipelines.score.evaluate.dataset import open_table
from pipelines.score.model_info import ModelInfo
from pipelines.system import paths

Kind = Literal["table", "parquet", "images", "libsvm"]
_ORIGIN, _ROW, _IMAGE, _METADATA = "__origin", "__row", "__image", "_metadata"


def detect_kind(location: str) -> Kind:
    """The kind of input at a location. Needs no Spark.

    Raises:
        ConfigError: there is nothing there that can be scored.
    """
    if location in NAMES:
        return "libsvm"
    path = paths.to_python(location, "--data ")
    if not path.exists():
        raise ConfigError(
            f"--data {location}: no such file or folder ({path}); it takes libsvm, Parquet, images or a data set's name"
        )
    if (path / MANIFEST_NAME).exists():
        return "table"
    try:
        found = files_by_kind(path)
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
        parquet_files.find(location)
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
    frame = spark_jobs.read_parquet(spark, files, location)
    return _with_row_ids(frame, "image", tuple(frame.columns))


def read_parquet(spark: SparkSession, location: str, image_column: str) -> ScoringInput:
    """Parquet from any writer: all files of a folder and its sub-folders, in the columns that any of them has.

    Args:
        spark: reads it.
        location: a file or a folder.
        image_column: binary, a list of numbers, or a struct with a field `bytes` (as in Hugging Face's data sets).

    Raises:
        ConfigError: there is no such column, or it has another type.
        DataError: Spark cannot read a file.
    """
    files = parquet_files.find(location)
    root = location if paths.to_python(location).is_dir() else ""
    try:
        frame = spark_jobs.read_parquet(spark, [str(file) for file in files], root, columns_of_all_files=len(files) > 1)
    except (Py4JJavaError, PySparkException) as error:
        failure = spark_jobs.as_data_error(error, f"{location}: Spark cannot read the Parquet")
        remedy = parquet_files.explain(files, str(failure))
        raise DataError(f"{failure}; {remedy}" if remedy else str(failure)) from error
    if image_column not in frame.columns:
        raise ConfigError(f"--image-column {image_column}: {location} has no such column; it has {', '.join(frame.columns)}")
    column_type = frame.schema[image_column].dataType
    if isinstance(column_type, T.StructType) and "bytes" in column_type.names:
        return _with_row_ids(frame.withColumn(_IMAGE, F.col(quoted(image_column))["bytes"]), _IMAGE, tuple(frame.columns))
    is_list = isinstance(column_type, T.ArrayType) and isinstance(column_type.elementType, T.NumericType)
    if isinstance(column_type, T.BinaryType) or is_list:
        return _with_row_ids(frame, image_column, tuple(frame.columns))
    raise ConfigError(
        f"--image-column {image_column}: has type {column_type.simpleString()}; it must be binary (raw values or an encoded "
        "image), a list of numbers, or a struct with a field 'bytes'"
    )


def read_images(spark: SparkSession, location: str) -> ScoringInput:
    """Images of a folder and its subfolders, with path, size and modification time. Raises DataError if it cannot be read."""
    files = files_by_kind(paths.to_python(location))["picture"]
    frame = picture_files.frame(spark, files).withColumn(_ORIGIN, F.col("path")).withColumn(_ROW, F.lit(-1).cast("long"))
    return ScoringInput(frame, "content", ("path", "modificationTime", "length"), _ORIGIN, _ROW)


def _with_row_ids(frame: DataFrame, image: str, kept: tuple[str, ...]) -> ScoringInput:
    taken = next((name for name in kept if name.lower() in (_ORIGIN, _ROW, _IMAGE, _METADATA)), "")
    if taken:
        raise ConfigError(f"the input has a column '{taken}', a name that is needed to number its rows; rename or drop it first")
    # Spark percent-encodes the paths in this column.
    origin = F.expr(f"regexp_replace(url_decode(replace({_METADATA}.file_path, '+', '%2B')), '^file:/+', '/')")
    frame = frame.withColumn(_ORIGIN, origin).withColumn(_ROW, F.col(f"{_METADATA}.row_index"))
    return ScoringInput(frame, image, kept, _ORIGIN, _ROW)
