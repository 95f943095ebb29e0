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
from pipelines.score.batch.scoring import ScoringInput, label_dtype
from pipelines.system import listing, paths
from pipelines.system.reporter import Reporter

KEPT_COLUMNS = ("file", "line", "label")
_ROW_COLUMNS = "file string, line bigint, label {label}, content binary, __origin string, __row bigint"


@contextmanager
def read_libsvm(
    spark: SparkSession, config: Config, reporter: Reporter, folder: Path, *, index_is_known: bool = False
) -> Iterator[tuple[ScoringInput, int]]:
    """The rows of `data.dataset` with file, line (from 1) and label value, and the number of lines quarantined in `folder`.

    A label that the model does not know is null: rows to predict need not be labelled.

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
            num_targets=len(config.data.target_names),
        )
        label_type = _label_type(config.data)
        frame = text.frame.where(IS_IMAGES).mapInArrow(rows, _ROW_COLUMNS.format(label=label_type))
        yield ScoringInput(frame, "content", KEPT_COLUMNS, "__origin", "__row"), text.rejected.rows


def image_rows(
    batches: Iterable[pa.RecordBatch],
    uris: Sequence[str],
    first_lines: Mapping[tuple[int, int], int],
    labels: Sequence[int],
    num_targets: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Turn parsed images into rows to score. Runs in Spark's Python workers.

    Args:
        batches: `pipelines.data.sources.parsed_rows.PARSED_COLUMNS`, one image per row.
        uris: URIs of the source's files, by file number.
        first_lines: (file, block) -> zero-based number of the block's first line in its file.
        labels: label values by class index. Class index -1 becomes null.
        num_targets: numbers in place of the label, for a regression. What is no number becomes null.

    Yields:
        `_ROW_COLUMNS`: file, line (from 1), label value, image, and the columns that identify the row.
    """
    for batch in batches:
        files, blocks = batch.column("file").to_pylist(), batch.column("block").to_pylist()
        lines = np.frombuffer(b"".join(batch.column("lines").to_pylist()), "<i8")
        offsets = np.asarray([first_lines[block] for block in zip(files, blocks, strict=True)], np.int64)
        uri = pa.array([uris[file] for file in files], pa.string())
        columns = {
            "file": uri,
            "line": pa.array(offsets + lines + 1),
            "label": _labels(b"".join(batch.column("targets").to_pylist()), labels, num_targets),
            "content": batch.column("content"),
            "__origin": uri,
            "__row": pa.array(lines),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _label_type(data: DataConfig) -> str:
    if data.task == "regression":
        return "double" if data.targets == 1 else "array<double>"
    return "bigint" if label_dtype(data.label_values) == np.int64 else "int"


def _labels(content: bytes, labels: Sequence[int], num_targets: int) -> pa.Array:
    """The label values, or the numbers of a regression, of rows; null where a row has another."""
    if not num_targets:
        classes = np.frombuffer(content, "<i4")
        return pa.array(np.asarray(labels, label_dtype(labels))[classes], mask=classes < 0)
    numbers = np.frombuffer(content, "<f4").reshape(-1, num_targets).astype(np.float64)
    missing = np.isnan(numbers).any(axis=1)
    return pa.array(numbers[:, 0], mask=missing) if num_targets == 1 else pa.array(list(numbers), mask=missing)


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
