"""Detect and read the inputs of batch scoring: Convoy's tables, other Parquet, folders of images, libsvm text."""

from typing import Literal

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.data.formats import image_file
from pipelines.data.formats.file_kind import files_by_kind
from pipelines.data.sources.resolve import NAMES
from pipelines.data.table.schema import MANIFEST_NAME
from pipelines.errors import ConfigError
from pipelines.score.batch.scoring import ScoringInput
from pipelines.score.evaluate.compatibility import check_compatible
from pipelines.score.evaluate.dataset import open_table
from pipelines.score.model_info import ModelInfo
from pipelines.system import paths

Kind = Literal["table", "parquet", "images", "libsvm"]
_ORIGIN, _ROW, _IMAGE = "__origin", "__row", "__image"


def detect_kind(location: str) -> Kind:
    """The kind of input at a location. Needs no Spark.

    Raises:
        ConfigError: there is nothing there that can be scored.
    """
    if location in NAMES:
        return "libsvm"
    path = paths.to_python(location)
    if not path.exists():
        raise ConfigError(
            f"--data {location}: no such file or folder ({path}); it takes libsvm, Parquet, images or a data set's name"
        )
    if (path / MANIFEST_NAME).exists():
        return "table"
    found = files_by_kind(path)
    counts: dict[Kind, int] = {
        "parquet": len(found.get("parquet", ())),
        "images": len(found.get("picture", ())),
        "libsvm": len(found.get("libsvm", ())),
    }
    kinds = [kind for kind, count in counts.items() if count]
    if len(kinds) != 1:
        content = " and ".join(f"{counts[kind]} of kind {kind}" for kind in kinds) or "neither libsvm nor Parquet nor images"
        raise ConfigError(f"--data {location}: contains {content}; it must contain files of one kind")
    return kinds[0]


def read_table(spark: SparkSession, location: str, info: ModelInfo) -> ScoringInput:
    """All rows of a table.

    Raises:
        DataError: its images do not fit the model, or it is damaged.
    """
    manifest = open_table(location).manifest
    check_compatible(info, manifest, location)
    base = location.rstrip("/")
    files = [paths.to_spark(f"{base}/{file.path}") for split in manifest.splits.values() for file in split.files]
    frame = spark.read.option("basePath", paths.to_spark(location)).parquet(*files)
    return _with_row_ids(frame, "image", tuple(frame.columns))


def read_parquet(spark: SparkSession, location: str, image_column: str) -> ScoringInput:
    """Parquet from any writer.

    Args:
        spark: reads it.
        location: a file or a folder.
        image_column: binary, a list of numbers, or a struct with a field `bytes` (as in Hugging Face's data sets).

    Raises:
        ConfigError: there is no such column, or it has another type.
    """
    frame = spark.read.parquet(paths.to_spark(location))
    if image_column not in frame.columns:
        raise ConfigError(f"--image-column {image_column}: {location} has no such column; it has {', '.join(frame.columns)}")
    column_type = frame.schema[image_column].dataType
    if isinstance(column_type, T.StructType) and "bytes" in column_type.names:
        return _with_row_ids(frame.withColumn(_IMAGE, F.col(image_column)["bytes"]), _IMAGE, tuple(frame.columns))
    is_list = isinstance(column_type, T.ArrayType) and isinstance(column_type.elementType, T.NumericType)
    if isinstance(column_type, T.BinaryType) or is_list:
        return _with_row_ids(frame, image_column, tuple(frame.columns))
    raise ConfigError(
        f"--image-column {image_column}: has type {column_type.simpleString()}; it must be binary (raw values or an encoded "
        "image), a list of numbers, or a struct with a field 'bytes'"
    )


def read_images(spark: SparkSession, location: str) -> ScoringInput:
    """Images of a folder and its subfolders, with path, size and modification time."""
    frame = (
        spark.read.format("binaryFile")
        .option("recursiveFileLookup", "true")
        .load(paths.to_spark(location))
        .where(F.lower(F.regexp_extract("path", r"(\.[^.]*)$", 1)).isin(*image_file.ENDINGS))
        .withColumn("path", F.regexp_replace("path", "^file:/+", "/"))
        .withColumn(_ORIGIN, F.col("path"))
        .withColumn(_ROW, F.lit(-1).cast("long"))
    )
    return ScoringInput(frame, "content", ("path", "modificationTime", "length"), _ORIGIN, _ROW)


def _with_row_ids(frame: DataFrame, image: str, kept: tuple[str, ...]) -> ScoringInput:
    frame = frame.withColumn(_ORIGIN, F.col("_metadata.file_name")).withColumn(_ROW, F.col("_metadata.row_index"))
    return ScoringInput(frame, image, kept, _ORIGIN, _ROW)
