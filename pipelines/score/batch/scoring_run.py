"""Score an input and write the output folder, which appears complete or not at all."""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipelines import __version__
from pipelines.config import Config, DataConfig, IngestConfig
from pipelines.data.formats.image_format import ImageFormat
from pipelines.data.ingest import spark_jobs
from pipelines.data.ingest.spark_jobs import arrow_batches, job_group
from pipelines.data.sources import parquet_reader
from pipelines.data.table.schema import REJECTED_FOLDER
from pipelines.errors import ConfigError, DataError
from pipelines.score.batch import image_column, inputs, libsvm_input
from pipelines.score.batch.inputs import Kind
from pipelines.score.batch.scoring import RejectedRow, ScoringInput, Tally, score, total
from pipelines.score.evaluate.dataset import with_model_settings
from pipelines.score.model_info import ModelInfo
from pipelines.score.spark_model import packed_models
from pipelines.system import atomic, connect, paths, spark_location
from pipelines.system.reporter import Reporter

_VALUES_PER_ENCODED_IMAGE = 250_000
RECORD_NAME = "_scoring.json"
# Readers of Parquet ignore it.
_TALLIES = "_tallies"


@dataclass(frozen=True, kw_only=True)
class ScoringRequest:
    """The input, the model and the output of a scoring job."""

    config: Config
    """`data.dataset` is the input."""
    info: ModelInfo
    output: str
    image_column: str
    """The column that the model takes; empty for those on which it was trained."""
    digits: bool
    """Convert pictures to MNIST's format."""
    resize: bool = True
    """Resize pictures of another size."""
    picture_note: str = ""
    """What to say if the input holds pictures."""
    overwrite: bool

    @property
    def target(self) -> Path:
        return paths.to_python(self.output, "--output ")


def check(request: ScoringRequest) -> Kind:
    """Raises ConfigError if the input cannot be scored or the output must not be overwritten. Returns the kind of input."""
    kind = inputs.detect_kind(request.config.data.dataset)
    if request.target.exists() and not request.overwrite:
        raise ConfigError(f"--output {request.output}: already exists; name another folder, or give --overwrite")
    if request.target.exists() and not (request.target / RECORD_NAME).is_file():
        # --overwrite must not delete anything but the output of an earlier scoring.
        raise ConfigError(f"--output {request.output}: exists and was not written by scoring; name another folder")
    return kind


def run_scoring(spark: SparkSession, request: ScoringRequest, kind: Kind, reporter: Reporter) -> dict[str, Any]:
    """Score the input and write the output.

    Returns:
        the summary, plain data ready for JSON.

    Raises:
        DataError: a row is bad, or too many are (`ingest.on_bad_rows`, `ingest.max_bad_fraction`); nothing is written then.
        ConfigError: the input has no such image column, or the output cannot be written.
    """
    started = time.monotonic()
    config = dataclasses.replace(request.config, data=with_model_settings(request.config.data, request.info))
    location = config.data.dataset
    columns = _input_columns(request, config.data)
    target = ImageFormat(
        shape=cast(tuple[int, int, int], request.info.image_shape),
        value_range=request.info.value_range,
        digits=request.digits,
        resize=request.resize,
        is_range_known=request.info.checks_range,
    )
    with ExitStack() as stack:
        folder = stack.enter_context(_unfinished_output(request))
        (model,) = packed_models(spark, [request.info])
        # An encoded image's size is not known here.
        values_per_row = _VALUES_PER_ENCODED_IMAGE if kind == "images" else math.prod(target.shape)
        stack.enter_context(arrow_batches(spark, values_per_row))
        stack.enter_context(job_group(spark, "Convoy scoring"))
        stack.enter_context(parquet_reader.partitions_as_text(spark))
        quarantined = 0
        tallies = folder / _TALLIES
        tallies.mkdir()
        try:
            if kind == "libsvm":
                text = libsvm_input.read_libsvm(spark, config, reporter, folder, index_is_known=request.info.knows_indices)
                rows, quarantined = stack.enter_context(text)
            elif kind == "table":
                rows = inputs.read_table(spark, location, request.info)
            elif kind == "parquet":
                of_spark = spark_location.parse(location)
                rows = inputs.read_parquet(spark, of_spark.name if of_spark is not None else location, columns)
            elif kind == "frame":
                rows = inputs.read_frame(spark, location, columns, config.data.source_columns.id)
            else:
                rows = inputs.read_images(spark, location)
            writing = time.monotonic()
            target = _with_content(rows, kind, target, request, reporter)
            if kind in ("parquet", "frame") and target.content is not None:
                reporter.say(image_column.describe(columns, target.content))
            scored = score(rows, target, model, tallies)
            scored.write.mode("append").option("compression", "zstd").parquet(paths.to_spark(str(folder)))
        except (Py4JJavaError, PySparkException) as error:
            raise spark_jobs.as_data_error(error, f"{location} could not be scored to {request.output}") from error
        seconds = time.monotonic() - writing
        tally = total(tallies)
        shutil.rmtree(tallies)
        _check_rejected(config.ingest, tally, reporter)
        if tally.rejected:
            _write_rejected(tally.rejected, folder)
        rejected = quarantined + len(tally.rejected)
        if not tally.rows:
            raise DataError(f"{location}: has no rows to score")
        record = _record(request, kind, tally, rejected)
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _publish(folder, request.target)
    return record | {
        "output": request.output,
        "rows_per_second": round(tally.rows / seconds),
        "rows_per_second_without_loading": round(tally.rows / max(1e-9, seconds - tally.load_seconds / _task_slots(spark))),
        "seconds": {
            "score": round(seconds, 2),
            "predict": round(tally.predict_seconds, 2),
            "load": round(tally.load_seconds, 2),
            "total": round(time.monotonic() - started, 2),
        },
    }


def _with_content(
    rows: ScoringInput, kind: Kind, target: ImageFormat, request: ScoringRequest, reporter: Reporter
) -> ImageFormat:
    """The image format with what the column holds, which is reported."""
    content = image_column.content(rows, kind, target)
    if content == "encoded" and request.picture_note:
        reporter.say(request.picture_note)
    return dataclasses.replace(target, content=content)


def _input_columns(request: ScoringRequest, data: DataConfig) -> tuple[str, ...]:
    """The columns of the input that the model takes: as asked for, as in training, or as they are usually called."""
    if request.image_column:
        return (request.image_column,)
    if data.columns:
        return data.source_columns.inputs
    return ("image" if len(request.info.image_shape) == 3 else "features",)


def _task_slots(spark: SparkSession) -> int:
    return max(1, connect.parallelism(spark))


@contextmanager
def _unfinished_output(request: ScoringRequest) -> Iterator[Path]:
    """A hidden folder beside the output, removed on exit."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(atomic.unfinished(request.target.parent, ".scoring-", request.target.name))
        except OSError as error:
            raise ConfigError(f"--output {request.output}: cannot be written ({error.strerror}); name another folder") from error
        yield folder


def _publish(folder: Path, target: Path) -> None:
    """Move the finished folder to the output's path. An old output is deleted only after that."""
    try:
        atomic.replace_folder(folder, target)
    except OSError as error:
        raise ConfigError(f"--output {target}: cannot be put in place ({error.strerror}); name another folder") from error


def _check_rejected(config: IngestConfig, tally: Tally, reporter: Reporter) -> None:
    if not tally.rejected:
        return
    first = min(tally.rejected, key=lambda rejected: (rejected.origin, rejected.row))
    bad, rows = len(tally.rejected), len(tally.rejected) + tally.rows
    count = f"; {bad:,} of {rows:,} rows are bad" if bad > 1 else ""
    if config.on_bad_rows == "fail":
        raise DataError(f"{first}{count}; fix the data, or set ingest.on_bad_rows=quarantine to continue without bad rows")
    if bad > config.max_bad_fraction * rows:
        raise DataError(
            f"{first}{count}; that is more than ingest.max_bad_fraction={config.max_bad_fraction:g} allows: fix the data"
        )
    reporter.warn(f"{first}; {bad:,} of {rows:,} rows are set aside in {REJECTED_FOLDER}")


def _write_rejected(rejected: tuple[RejectedRow, ...], folder: Path) -> None:
    (folder / REJECTED_FOLDER).mkdir(exist_ok=True)
    ordered = sorted(rejected, key=lambda row: (row.origin, row.row))
    columns = {
        "file": pa.array([row.origin for row in ordered], pa.string()),
        "row": pa.array([row.row if row.row >= 0 else None for row in ordered], pa.int64()),
        "detail": pa.array([row.reason for row in ordered], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / REJECTED_FOLDER / "part-00000.parquet")


def _record(request: ScoringRequest, kind: Kind, tally: Tally, rejected: int) -> dict[str, Any]:
    info = request.info
    return {
        "input": request.config.data.dataset,
        "kind": kind,
        "rows": tally.rows,
        "rejected_rows": rejected,
        "model_uri": info.uri,
        "model_version": info.version,
        "model_run_id": info.run_id,
        "class_names": list(info.class_names),
        "labels": list(info.labels),
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "convoy_version": __version__,
    }
