"""Malformed lines: whether the job continues without them, and the table that stores them."""

import collections
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame

from pipelines.config import IngestConfig
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.sources.parsed_rows import IS_BAD_LINE, BlockReport
from pipelines.data.sources.source import Source
from pipelines.data.table.schema import REJECTED_FOLDER, format_counts
from pipelines.errors import DataError
from pipelines.system import atomic, paths

REJECTED_COLUMNS = "file string, line bigint, reason string, detail string, raw binary"
_LINES_PER_FILE = 200_000


@dataclass(frozen=True)
class Rejections:
    """The malformed lines excluded from a table."""

    by_reason: dict[str, int]
    per_file: tuple[int, ...]
    """Count for each source file, in order."""
    warnings: tuple[str, ...]
    """Messages for the user, one line per file."""

    @property
    def rows(self) -> int:
        return sum(self.per_file)


def check_bad_rows(config: IngestConfig, source: Source, rules: Rules, reports: Sequence[BlockReport]) -> Rejections:
    """Decide whether ingest continues.

    Args:
        config: `on_bad_rows` and `max_bad_fraction`, which applies to each file.
        source: the source with the files that the reports refer to.
        rules: what a line may contain.
        reports: reports of all blocks, in the order of files and blocks.

    Raises:
        DataError: a line is malformed, or too many are. The message begins with `FILE:LINE: reason` of the first one.
    """
    total: collections.Counter[str] = collections.Counter()
    per_file, warnings = [], []
    for number in range(len(source.files)):
        blocks = [report for report in reports if report.file == number]
        bad: collections.Counter[str] = collections.Counter()
        for report in blocks:
            bad.update(report.bad)
        per_file.append(bad.total())
        if not bad:
            continue
        total += bad
        location = _first_location(source, blocks)
        lines = bad.total() + sum(report.rows for report in blocks)
        may_be_zero_based = bad["index_zero"] > 0 and not any(report.uses_last_index for report in blocks)
        if bad.total() > config.max_bad_fraction * lines or config.on_bad_rows == "fail":
            if may_be_zero_based and 2 * bad["index_zero"] > max(bad.total(), 2):
                raise DataError(
                    f"{location}; {bad['index_zero']:,} of {lines:,} lines have an index 0 and none uses {rules.last_index}, "
                    "so the file seems to be zero-based"
                )
            raise DataError(f"{location}{_explanation(config, bad, lines, source)}")
        warning = f"{location}; set aside {bad.total():,} of {lines:,} {source.unit}s ({format_counts(bad)})"
        if may_be_zero_based:
            warning += "; if the file is zero-based, its other rows are off by one value"
        warnings.append(warning)
    return Rejections(dict(total), tuple(per_file), tuple(warnings))


def write(frame: DataFrame, source: Source, reports: Sequence[BlockReport], num_lines: int, folder: Path) -> None:
    """Write the malformed lines in `frame` (`PARSED_COLUMNS`) to `folder/_rejected/part-N.parquet`, sorted by file and line."""
    locate = partial(locate_batches, source=source, first_lines=first_lines(reports))
    target = folder / REJECTED_FOLDER
    (
        frame.where(IS_BAD_LINE)
        .mapInArrow(locate, REJECTED_COLUMNS)
        .repartitionByRange(-(-num_lines // _LINES_PER_FILE), "file", "line")
        .sortWithinPartitions("file", "line")
        .write.option("compression", "zstd")
        .parquet(paths.to_spark(str(target)))
    )
    parts = sorted(target.glob("part-*.parquet"))
    for number, part in enumerate(parts):
        part.rename(target / f"part-{number:05d}.parquet")
    # Not Spark's success markers and checksums.
    atomic.keep_only(target, [target / f"part-{number:05d}.parquet" for number in range(len(parts))])


def locate_batches(
    batches: Iterable[pa.RecordBatch], source: Source, first_lines: Mapping[tuple[int, int], int]
) -> Iterator[pa.RecordBatch]:
    """Map malformed lines to `REJECTED_COLUMNS`. Runs in Spark's Python workers.

    Args:
        batches: malformed lines as `PARSED_COLUMNS`.
        source: the source with the files that the rows refer to.
        first_lines: (file, block) -> zero-based number of the block's first line in its file.
    """
    for batch in batches:
        files, blocks, numbers = (batch.column(name).to_pylist() for name in ("file", "block", "number"))
        faults = [json.loads(note) for note in batch.column("note").to_pylist()]
        locations = [
            source.locate(file, first_lines[file, block] + number)
            for file, block, number in zip(files, blocks, numbers, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([fault["file"] or uri for fault, (uri, _) in zip(faults, locations, strict=True)], pa.string()),
                pa.array([line for _, line in locations], pa.int64()),
                pa.array([fault["reason"] for fault in faults], pa.string()),
                pa.array([fault["text"] for fault in faults], pa.string()),
                batch.column("content"),
            ],
            ["file", "line", "reason", "detail", "raw"],
        )


def _explanation(config: IngestConfig, bad: collections.Counter[str], lines: int, source: Source) -> str:
    unit, remedy = source.unit, source.remedy
    count = f"; {bad.total():,} of {lines:,} rows are malformed ({format_counts(bad)})" if bad.total() > 1 else ""
    if config.on_bad_rows == "fail":
        return f"{count}; {remedy}, or set ingest.on_bad_rows=quarantine to continue without such {unit}s"
    return f"{count}; that is more than ingest.max_bad_fraction={config.max_bad_fraction:g} allows: {remedy}"


def _first_location(source: Source, reports: Sequence[BlockReport]) -> str:
    first = next(report for report in reports if report.bad)
    before = sum(report.lines for report in reports if report.block < first.block)
    file, line = source.locate(first.file, before + first.first_bad_line)
    return f"{first.first_bad_file or file}{'' if line is None else f':{line}'}: {first.first_fault}"


def first_lines(reports: Sequence[BlockReport]) -> dict[tuple[int, int], int]:
    """(file, block) -> zero-based number of the block's first line in its file."""
    first: dict[tuple[int, int], int] = {}
    for _, blocks in itertools.groupby(reports, key=lambda report: report.file):
        line = 0
        for report in blocks:
            first[report.file, report.block] = line
            line += report.lines
    return first
