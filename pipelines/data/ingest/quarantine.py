"""Malformed lines: whether the job goes on without them, and the table in which they are kept."""

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
from pipelines.system import paths

REJECTED_COLUMNS = "file string, line bigint, reason string, detail string, raw binary"
_LINES_PER_FILE = 200_000


@dataclass(frozen=True)
class Rejections:
    """The malformed lines that a table is built without."""

    by_reason: dict[str, int]
    per_file: tuple[int, ...]
    """Of the source's files, in order."""
    warnings: tuple[str, ...]
    """What to tell people, one line a file."""

    @property
    def rows(self) -> int:
        return sum(self.per_file)


def check_bad_rows(config: IngestConfig, source: Source, rules: Rules, reports: Sequence[BlockReport]) -> Rejections:
    """Decide whether the rows can be used.

    Args:
        config: `on_bad_rows` and `max_bad_fraction`, which holds for each file.
        source: whose files the reports number.
        rules: what a line may hold.
        reports: of all blocks, in the order of files and blocks.

    Raises:
        DataError: a line is malformed, or too many are; begins `FILE:LINE: reason` with the first of them.
    """
    total: collections.Counter[str] = collections.Counter()
    per_file, warnings = [], []
    for number in range(len(source.files)):
        of_file = [report for report in reports if report.file == number]
        bad: collections.Counter[str] = collections.Counter()
        for report in of_file:
            bad.update(report.bad)
        per_file.append(bad.total())
        if not bad:
            continue
        total += bad
        place = _first_location(source, of_file)
        lines = bad.total() + sum(report.rows for report in of_file)
        may_be_zero_based = bad["index_zero"] > 0 and not any(report.uses_last_index for report in of_file)
        if bad.total() > config.max_bad_fraction * lines or config.on_bad_rows == "fail":
            if may_be_zero_based and 2 * bad["index_zero"] > max(bad.total(), 2):
                raise DataError(
                    f"{place}; {bad['index_zero']:,} of {lines:,} lines have an index 0 and none uses {rules.last_index}, "
                    "so the whole file seems to count from 0"
                )
            raise DataError(f"{place}{_explanation(config, bad, lines, source)}")
        warning = f"{place}; set aside {bad.total():,} of {lines:,} {source.unit}s ({format_counts(bad)})"
        if may_be_zero_based:
            warning += "; if the file counts from 0 throughout, its other rows are off by one value"
        warnings.append(warning)
    return Rejections(dict(total), tuple(per_file), tuple(warnings))


def write(parsed: DataFrame, source: Source, reports: Sequence[BlockReport], num_lines: int, folder: Path) -> None:
    """Write the bad lines among `parsed` (`PARSED_COLUMNS`) to `folder/_rejected/part-N.parquet`, by file and line."""
    locate = partial(locate_batches, source=source, first_lines=first_lines(reports))
    target = folder / REJECTED_FOLDER
    (
        parsed.where(IS_BAD_LINE)
        .mapInArrow(locate, REJECTED_COLUMNS)
        .repartitionByRange(-(-num_lines // _LINES_PER_FILE), "file", "line")
        .sortWithinPartitions("file", "line")
        .write.option("compression", "zstd")
        .parquet(paths.to_spark(str(target)))
    )
    parts = sorted(target.glob("part-*.parquet"))
    for number, part in enumerate(parts):
        part.rename(target / f"part-{number:05d}.parquet")
    for rest in set(target.iterdir()) - {target / f"part-{number:05d}.parquet" for number in range(len(parts))}:
        # Marks and checksums of Spark's.
        rest.unlink()


def locate_batches(
    batches: Iterable[pa.RecordBatch], source: Source, first_lines: Mapping[tuple[int, int], int]
) -> Iterator[pa.RecordBatch]:
    """Bad lines as they were parsed to `REJECTED_COLUMNS`. Runs in Spark's Python workers.

    Args:
        batches: the bad lines of `PARSED_COLUMNS`.
        source: whose files the rows number.
        first_lines: (file, block) -> zero-based number of the block's first line in its file.
    """
    for batch in batches:
        files, blocks, numbers = (batch.column(name).to_pylist() for name in ("file", "block", "number"))
        faults = [json.loads(note) for note in batch.column("note").to_pylist()]
        places = [
            source.locate(file, first_lines[file, block] + number)
            for file, block, number in zip(files, blocks, numbers, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([uri for uri, _ in places], pa.string()),
                pa.array([line for _, line in places], pa.int64()),
                pa.array([fault["reason"] for fault in faults], pa.string()),
                pa.array([fault["text"] for fault in faults], pa.string()),
                batch.column("content"),
            ],
            ["file", "line", "reason", "detail", "raw"],
        )


def _explanation(config: IngestConfig, bad: collections.Counter[str], lines: int, source: Source) -> str:
    unit, remedy = source.unit, source.remedy
    count = f"; {bad.total():,} of {lines:,} {unit}s are malformed ({format_counts(bad)})" if bad.total() > 1 else ""
    if config.on_bad_rows == "fail":
        return f"{count}; {remedy}, or set ingest.on_bad_rows=quarantine to go on without such {unit}s"
    return f"{count}; that is more than ingest.max_bad_fraction={config.max_bad_fraction:g} allows: {remedy}"


def _first_location(source: Source, reports: Sequence[BlockReport]) -> str:
    first = next(report for report in reports if report.bad)
    before = sum(report.lines for report in reports if report.block < first.block)
    file, line = source.locate(first.file, before + first.first_bad_line)
    return f"{file}{'' if line is None else f':{line}'}: {first.first_fault}"


def first_lines(reports: Sequence[BlockReport]) -> dict[tuple[int, int], int]:
    """(file, block) -> zero-based number of the block's first line in its file."""
    found: dict[tuple[int, int], int] = {}
    for _, of_file in itertools.groupby(reports, key=lambda report: report.file):
        line = 0
        for report in of_file:
            found[report.file, report.block] = line
            line += report.lines
    return found
