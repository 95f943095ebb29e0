"""The Spark jobs of ingest: from a source to Parquet files.

Three passes run in Spark's Python workers: the source parses its files to rows, which Spark persists until all are counted;
`shuffle_batches` assigns each row to a file of the table; Spark groups the rows by file, and `write_batches` writes the
files. A source that parses faster than Spark moves rows (`Source.blocks`) is parsed twice instead: once to count the rows, and
once in the second pass.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pipelines.config import Config, DataConfig
from pipelines.config.data import MIN_RANGE
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.ingest import quarantine
from pipelines.data.ingest.permutation import Permutation, plan_segments
from pipelines.data.ingest.quarantine import Rejections
from pipelines.data.ingest.shuffle_pass import SHUFFLED_COLUMNS, Plan, parse_and_shuffle, shuffle_batches
from pipelines.data.ingest.spark_jobs import arrow_batches, job_group, root_cause
from pipelines.data.ingest.statistics import Moments, merged
from pipelines.data.ingest.write_pass import WRITTEN_COLUMNS, WrittenFile, write_batches
from pipelines.data.sources.parsed_rows import IS_IMAGES, IS_REPORT, PARSED_COLUMNS, VALUES_PER_SPARK_ROW, BlockReport, Blocks
from pipelines.data.sources.resolve import has_known_indices
from pipelines.data.sources.source import Source
from pipelines.data.table.schema import SPLIT_COLUMN, DataSpec, Dtype, Split
from pipelines.errors import ConfigError, DataError
from pipelines.system import connect

_MEGABYTE = 2**20
# A task writes its files one after another; several tasks per core balance the load.
_BYTES_PER_WRITE_TASK = 256 * _MEGABYTE
# Readers load whole row groups.
_MAX_BYTES_PER_ROW_GROUP = 1024 * _MEGABYTE


@dataclass(frozen=True)
class WrittenTable:
    """Files written to the folder of a table."""

    plan: Plan
    files: tuple[WrittenFile, ...]
    rows_per_file: tuple[int, ...]
    """Rows of each source file, in order."""
    rejected: Rejections
    hint: str
    """What the user may have to set. Often empty."""
    spec: DataSpec
    """What a row holds, with the statistics of the training rows."""
    target_moments: Moments | None
    """Moments of a regression's targets over the training rows."""


def write_rows(spark: SparkSession, config: Config, source: Source, folder: Path) -> WrittenTable:
    """Read the source and write the table's files (`write_pass.path_of`) and rejected lines to `folder`.

    Raises:
        DataError: a line is malformed (`FILE:LINE: reason`), a file is damaged, or there are no rows.
        ConfigError: ingest.rows_per_row_group is too large for these rows.
    """
    with counted_source(spark, config, source) as parsed:
        plan = _plan(config, source, parsed.reports)
        with _writing(config):
            with arrow_batches(spark, max(plan.spec.num_values, VALUES_PER_SPARK_ROW)):
                files = _write(spark, parsed.shuffled(plan), plan, folder)
            if parsed.rejected.rows:
                quarantine.write(parsed.frame, source, parsed.reports, parsed.rejected.rows, folder)
    rows = [sum(report.rows for report in parsed.reports if report.file == number) for number in range(len(source.files))]
    hint = index_hint(config.data, source, parsed.reports)
    trained = _training_files(plan, files)
    spec = _with_statistics(plan.spec, trained, omits_zeros=source.reading(config.data).source == "libsvm")
    moments = [Moments.from_bytes(file.target_moments) for file in trained if file.target_moments is not None]
    return WrittenTable(plan, files, tuple(rows), parsed.rejected, hint, spec, merged(moments) if moments else None)


def _training_files(plan: Plan, files: Sequence[WrittenFile]) -> list[WrittenFile]:
    """The files with training rows, in row order."""
    trained = [file for file in files if plan.segments[file.segment].split == "train"]
    return sorted(trained, key=lambda file: (file.segment, file.file))


def _with_statistics(spec: DataSpec, files: Sequence[WrittenFile], *, omits_zeros: bool) -> DataSpec:
    """What a row holds, with the range and the moments of the training rows where these are wanted."""
    ranges = [file.value_range for file in files if file.value_range is not None]
    if ranges:
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        low, high = (min(low, 0.0), max(high, 0.0)) if omits_zeros else (low, high)
        # What is constant has no range to scale to 0..1.
        spec = dataclasses.replace(spec, value_range=(low, high if high - low >= MIN_RANGE else low + 1))
    moments = [Moments.from_bytes(file.moments) for file in files if file.moments is not None]
    if moments:
        total = merged(moments)
        spec = dataclasses.replace(spec, means=tuple(total.means.tolist()), deviations=tuple(total.deviations.tolist()))
    return spec


def index_hint(data: DataConfig, source: Source, reports: Sequence[BlockReport]) -> str:
    """What to set if the indices of libsvm text start at another number than `data.zero_based` says; empty if a row shows it."""
    if source.reading(data).source != "libsvm" or has_known_indices(source):
        return ""
    files = " and ".join(uri for uri, _ in source.files[:2]) + (" and others" if len(source.files) > 2 else "")
    if data.zero_based:
        shown = any(report.uses_first_index for report in reports)
        return "" if shown else f"{files}: no row uses index 0; if indices start at 1, leave out data.zero_based=true"
    if any(report.uses_last_index or "index_zero" in report.bad for report in reports):
        return ""
    last = Rules.from_config(data).last_index
    return f"{files}: no row uses index {last}, the last; if indices start at 0, set data.zero_based=true"


@dataclass(frozen=True)
class ParsedSource:
    """A source that has been parsed and checked."""

    frame: DataFrame
    """`PARSED_COLUMNS`: persisted by Spark; or with `blocks`, malformed lines and reports alone, and parsed by each job."""
    reports: list[BlockReport]
    """Reports of all blocks, in the order of files and blocks."""
    rejected: Rejections
    blocks: Blocks | None = None
    """How to parse the rows, if they are not persisted."""

    def shuffled(self, plan: Plan) -> DataFrame:
        """The rows as `SHUFFLED_COLUMNS`."""
        if self.blocks is None:
            return self.frame.where(IS_IMAGES).mapInArrow(partial(shuffle_batches, plan=plan), SHUFFLED_COLUMNS)
        return self.blocks.frame.mapInArrow(partial(parse_and_shuffle, parse=self.blocks.parse, plan=plan), SHUFFLED_COLUMNS)


@contextmanager
def counted_source(spark: SparkSession, config: Config, source: Source) -> Iterator[ParsedSource]:
    """Parse a source for a table. Its rows are persisted until the end of the context, unless they are better parsed again.

    Raises:
        DataError: as `parsed_source`.
    """
    with _reading(source):
        blocks = source.blocks(spark, config.data)
    if blocks is None:
        with parsed_source(spark, config, source) as parsed:
            yield parsed
        return
    with job_group(spark, "Convoy ingest"):
        with _reading(source):
            counted = partial(blocks.parse, keep_bad_lines=False, keep_rows=False)
            reports = _collect_reports(blocks.frame.mapInArrow(counted, PARSED_COLUMNS))
        rejected = quarantine.check_bad_rows(config.ingest, source, Rules.from_config(config.data), reports)
        bad_lines = blocks.frame.mapInArrow(partial(blocks.parse, keep_bad_lines=True, keep_rows=False), PARSED_COLUMNS)
        yield ParsedSource(bad_lines, reports, rejected, blocks)


@contextmanager
def parsed_source(spark: SparkSession, config: Config, source: Source, *, images_apart: bool = False) -> Iterator[ParsedSource]:
    """Parse a source. Its rows stay persisted until the end of the context.

    Args:
        spark: the session.
        config: `data` says what a row may contain, `ingest` what happens to malformed lines.
        source: from `pipelines.data.sources.resolve.resolve_source`.
        images_apart: one image per Spark row, for frames that are divided into batches by the size of an image.

    Raises:
        DataError: a line is malformed (`FILE:LINE: reason`) and `ingest.on_bad_rows` does not allow it, or a file is damaged.
    """
    rules = Rules.from_config(config.data)
    with arrow_batches(spark, rules.num_values), job_group(spark, "Convoy ingest"):
        with _reading(source):
            keep_bad_rows = config.ingest.on_bad_rows == "quarantine"
            frame = source.parsed(spark, config.data, keep_bad_rows=keep_bad_rows, images_apart=images_apart)
            frame = frame.persist(StorageLevel.MEMORY_AND_DISK)
        try:
            with _reading(source):
                reports = _collect_reports(frame)
            yield ParsedSource(frame, reports, quarantine.check_bad_rows(config.ingest, source, rules, reports))
        finally:
            frame.unpersist()


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is None:
            # Not of a file: such as that of Py4J when the JVM has died.
            raise
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except (Py4JJavaError, PySparkException) as error:
        source.explain_failure()
        files = " or ".join(uri for uri, _ in source.files)
        raise DataError(f"{files}: Spark could not read the {source.unit}s: {root_cause(error)}") from error


@contextmanager
def _writing(config: Config) -> Iterator[None]:
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        raise DataError(
            f"ingest.tables_uri={config.ingest.tables_uri}: Spark could not write the table: {root_cause(error)}"
        ) from error


def _collect_reports(frame: DataFrame) -> list[BlockReport]:
    reports = [BlockReport.from_json(row.note) for row in frame.where(IS_REPORT).select("note").collect()]
    return sorted(reports, key=lambda report: (report.file, report.block))


def _plan(config: Config, source: Source, reports: list[BlockReport]) -> Plan:
    file_splits = tuple(split for _, split in source.files)
    first_row: dict[tuple[int, int], int] = {}
    rows: dict[Split, int] = dict.fromkeys(("train", *file_splits), 0)
    for report in reports:
        split = file_splits[report.file]
        first_row[report.file, report.block] = rows[split]
        rows[split] += report.rows
    for split in rows:
        if not rows[split]:
            uri = next((uri for uri, of_file in source.files if of_file == split), source.files[0][0])
            raise DataError(f"{uri}: contains no rows; a row is {source.row_form}")
    dtype: Dtype = "float32" if any(report.is_float for report in reports) else "uint8"
    data = config.data
    spec = DataSpec(
        shape=data.shape,
        dtype=dtype,
        value_range=data.allowed_range,
        checks_range=data.value_range != "auto",
        task=data.task,
        scaling=data.scaling,
    )
    bytes_per_row = spec.num_bytes
    if config.ingest.rows_per_row_group * bytes_per_row > _MAX_BYTES_PER_ROW_GROUP:
        raise ConfigError(
            f"ingest.rows_per_row_group={config.ingest.rows_per_row_group}: a row group can be at most 1 GB, which is "
            f"{_MAX_BYTES_PER_ROW_GROUP // bytes_per_row} rows of these; 0 chooses"
        )
    segments = plan_segments(
        train_rows=rows["train"],
        validation_rows=rows.get("validation"),
        test_rows=rows.get("test"),
        validation_fraction=config.ingest.validation_fraction,
        test_fraction=config.ingest.test_fraction,
        rows_per_row_group=config.ingest.rows_per_row_group,
        bytes_per_row=bytes_per_row,
    )
    return Plan(
        segments=segments,
        first_row=first_row,
        file_splits=file_splits,
        orders={split: Permutation(count, config.ingest.seed, split) for split, count in rows.items()},
        spec=spec,
        num_classes=len(data.label_values),
        num_targets=len(data.target_names),
        weighted=any(report.is_weighted for report in reports),
    )


def _write(spark: SparkSession, shuffled: DataFrame, plan: Plan, folder: Path) -> tuple[WrittenFile, ...]:
    for segment in plan.segments:
        (folder / f"{SPLIT_COLUMN}={segment.split}").mkdir()
    num_files = sum(segment.num_files for segment in plan.segments)
    num_bytes = sum(segment.rows for segment in plan.segments) * plan.spec.num_bytes
    tasks = max(3 * connect.parallelism(spark), -(-num_bytes // _BYTES_PER_WRITE_TASK))
    written = (
        shuffled.repartition(min(tasks, num_files), "segment", "file")
        .sortWithinPartitions("segment", "file")
        .mapInArrow(partial(write_batches, plan=plan, folder=str(folder)), WRITTEN_COLUMNS)
        .collect()
    )
    return tuple(WrittenFile(**row.asDict()) for row in written)
