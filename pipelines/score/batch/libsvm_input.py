"""Read libsvm text for scoring: parsed and validated as by ingest, in the order of the text."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from pipelines.config import Config, DataConfig
from pipelines.data.formats.file_kind import files_by_kind
from pipelines.data.ingest import build, quarantine
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.sources.parsed_rows import IS_IMAGES
from pipelines.data.sources.resolve import NAMES, resolve_source
from pipelines.data.sources.source import Source
from pipelines.score.batch.scoring import ScoringInput, label_dtype, quoted
from pipelines.system import listing, paths
from pipelines.system.reporter import Reporter

_ROW_COLUMNS = "file string, line bigint, {target}, content binary, __origin string, __row bigint"


@contextmanager
def read_libsvm(
    spark: SparkSession, config: Config, reporter: Reporter, folder: Path, *, index_is_known: bool = False
) -> Iterator[tuple[ScoringInput, int]]:
    """The rows of `data.dataset` with file, line (from 1) and label value or target, and the number of lines quarantined in
    `folder`.

    A label that the model does not know, or a target that is no number, is null: rows to predict need not be labelled.

    Raises:
        DataError: a line is malformed, or too many are (`ingest.on_bad_rows`); begins `FILE:LINE: reason`.
    """
    source: Source = resolve_files(config, reporter)
    if isinstance(source, LibsvmFiles):
        source = dataclasses.replace(source, any_label=True, index_is_known=index_is_known)
    with build.parsed_source(spark, config, source, images_apart=True) as text:
        for warning in text.rejected.warnings:
            reporter.warn(warning)
        if text.rejected.rows:
            quarantine.write(text.frame, source, text.reports, text.rejected.rows, folder)
        rows = partial(
            image_rows,
            uris=tuple(uri for uri, _ in source.files),
            first_lines=quarantine.first_lines(text.reports),
            labels=config.data.label_values,
            target_names=config.data.target_names,
        )
        frame = text.frame.where(IS_IMAGES).mapInArrow(rows, _ROW_COLUMNS.format(target=_target_column(config.data)))
        kept = ("file", "line", "target" if config.data.target_names else "label")
        yield ScoringInput(frame, "content", kept, "__origin", "__row"), text.rejected.rows


def _target_column(data: DataConfig) -> str:
    """Name and type of the column with what a line begins with."""
    if not data.target_names:
        return f"label {'bigint' if label_dtype(data.label_values) == np.int64 else 'int'}"
    if len(data.target_names) == 1:
        return "target double"
    return f"target struct<{', '.join(f'{quoted(name)}: double' for name in data.target_names)}>"


def image_rows(
    batches: Iterable[pa.RecordBatch],
    uris: Sequence[str],
    first_lines: Mapping[tuple[int, int], int],
    labels: Sequence[int],
    target_names: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Turn parsed images into rows to score. Runs in Spark's Python workers.

    Args:
        batches: `pipelines.data.sources.parsed_rows.PARSED_COLUMNS`, one image per row.
        uris: URIs of the source's files, by file number.
        first_lines: (file, block) -> zero-based number of the block's first line in its file.
        labels: label values by class index. Class index -1 becomes null.
        target_names: names of the numbers that a line begins with, in place of a label. NaN becomes null.

    Yields:
        `_ROW_COLUMNS`: file, line (from 1), label value or target, image, and the columns that identify the row.
    """
    for batch in batches:
        files, blocks = batch.column("file").to_pylist(), batch.column("block").to_pylist()
        lines = np.frombuffer(b"".join(batch.column("lines").to_pylist()), "<i8")
        targets = b"".join(batch.column("targets").to_pylist())
        offsets = np.asarray([first_lines[block] for block in zip(files, blocks, strict=True)], np.int64)
        uri = pa.array([uris[file] for file in files], pa.string())
        columns = {
            "file": uri,
            "line": pa.array(offsets + lines + 1),
            **(_numbers(targets, target_names) if target_names else _labels(targets, labels)),
            "content": batch.column("content"),
            "__origin": uri,
            "__row": pa.array(lines),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _labels(targets: bytes, labels: Sequence[int]) -> dict[str, pa.Array]:
    classes = np.frombuffer(targets, "<i4")
    return {"label": pa.array(np.asarray(labels, label_dtype(labels))[classes], mask=classes < 0)}


def _numbers(targets: bytes, names: Sequence[str]) -> dict[str, pa.Array]:
    numbers = np.frombuffer(targets, "<f4").reshape(-1, len(names)).astype(np.float64)
    columns = [pa.array(np.ascontiguousarray(column), mask=np.isnan(column)) for column in numbers.T]
    return {"target": columns[0] if len(names) == 1 else pa.StructArray.from_arrays(columns, list(names))}


def resolve_files(config: Config, reporter: Reporter) -> Source:
    """The files of `data.dataset`: a data set's files, a single file, or all libsvm files of a folder.

    Raises:
        ConfigError: there is no such data set.
        DataError: it is not available on this machine.
    """
    location = config.data.dataset
    if location in NAMES:
        return resolve_source(config.data, reporter)
    path = paths.to_python(location)
    if path.is_file():
        return LibsvmFiles(path.name, ((location, "test"),))
    matches = listing.matching(path)
    if matches:
        files = [file for match in matches for file in files_by_kind(match).get("libsvm", ())]
        return LibsvmFiles(path.name, tuple((str(file), "test") for file in files))
    names = [str(file.relative_to(path)) for file in files_by_kind(path)["libsvm"]]
    return LibsvmFiles(path.name, tuple((f"{location.rstrip('/')}/{name}", "test") for name in names))
