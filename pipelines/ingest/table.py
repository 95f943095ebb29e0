"""The Parquet table of a source: found where it was written before, or written now."""

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from pyspark.sql import SparkSession

import pipelines
from pipelines import paths, schema
from pipelines.config import Config
from pipelines.errors import DataError
from pipelines.ingest import folder
from pipelines.ingest.build import write_rows
from pipelines.ingest.sources import Source
from pipelines.schema import ImageSpec, SourceFile, Table, TableManifest


def find(config: Config, source: Source) -> Table | None:
    """The table of this source and these settings if it is ready. Needs no Spark.

    Raises:
        DataError: a source file cannot be read.
    """
    return _ready(config, source, _key(config, source, _fingerprints(source)))


def open_or_build(spark: SparkSession, config: Config, source: Source, report: Callable[[str], None]) -> tuple[Table, bool]:
    """The table of this source and these settings, and whether it was written just now.

    The folder gets its name when all rows are in it, and its manifest after that. After a failure nothing of it is left.

    Args:
        spark: reads the text and writes the Parquet files.
        config: `data` and `ingest` decide the table.
        source: from `pipelines.ingest.sources.resolve`.
        report: is given lines for people.

    Raises:
        DataError: a line is malformed (the message begins `FILE:LINE: `), a file is damaged, or there are no rows.
        ConfigError: ingest.tables_uri cannot be written, or ingest.rows_per_row_group is too large for these images.
    """
    fingerprints = _fingerprints(source)
    key = _key(config, source, fingerprints)
    table = _ready(config, source, key)
    if table is not None:
        return table, False
    started = time.monotonic()
    uri = _uri(config, source, key)
    target = paths.to_python(uri)
    report(f"ingest: Spark reads {' and '.join(location for location, _ in source.files)}")
    with folder.building(target.parent, key[:12], config.ingest.tables_uri) as unfinished:
        written = write_rows(spark, config, source, unfinished)
        manifest = TableManifest(
            dataset=source.dataset,
            image=ImageSpec(
                shape=schema._three(list(config.data.image_shape)),
                dtype=written.dtype,
                value_range=(config.data.value_range[0], config.data.value_range[1]),
            ),
            labels=config.data.label_values,
            class_names=config.data.names,
            splits=folder.arrange(unfinished, written.segments, len(config.data.label_values)),
            sources=tuple(
                SourceFile(uri=location, split=split, num_bytes=print_.num_bytes, sha256=print_.sha256, rows=rows)
                for (location, split), print_, rows in zip(source.files, fingerprints, written.rows_per_file, strict=True)
            ),
            seed=config.ingest.seed,
            rejected_rows=0,
            note=source.note,
            key=key,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            convoy_version=pipelines.__version__,
        )
        if _fingerprints(source) != fingerprints:
            raise DataError(f"{source.files[0][0]}: the source changed while it was read; run again when it is complete")
        folder.publish(unfinished, target, manifest)
    rows = sum(split.rows for split in manifest.splits.values())
    report(f"ingest: {rows:,} rows written to {paths.display(target)} in {time.monotonic() - started:.1f} s")
    return Table(uri, manifest), True


@dataclass(frozen=True)
class _Fingerprint:
    num_bytes: int
    sha256: str


def _fingerprints(source: Source) -> list[_Fingerprint]:
    """Of the source files as they lie, in order."""
    found = []
    for uri, _ in source.files:
        digest, num_bytes = hashlib.sha256(), 0
        try:
            with paths.to_python(uri).open("rb") as file:
                while piece := file.read(2**20):
                    digest.update(piece)
                    num_bytes += len(piece)
        except OSError as error:
            raise DataError(f"{uri}: cannot be read ({error.strerror}); check the path and its permissions") from error
        found.append(_Fingerprint(num_bytes, digest.hexdigest()))
    return found


def _key(config: Config, source: Source, fingerprints: list[_Fingerprint]) -> str:
    draws_test_rows = all(split == "train" for _, split in source.files)
    return schema.table_key(
        {
            "schema_version": schema.SCHEMA_VERSION,
            "sources": [[split, print_.sha256] for (_, split), print_ in zip(source.files, fingerprints, strict=True)],
            "image_shape": config.data.image_shape,
            "value_range": config.data.value_range,
            "labels": config.data.label_values,
            "validation_fraction": config.ingest.validation_fraction,
            "test_fraction": config.ingest.test_fraction if draws_test_rows else None,
            "seed": config.ingest.seed,
            "rows_per_row_group": config.ingest.rows_per_row_group,
        }
    )


def _uri(config: Config, source: Source, key: str) -> str:
    return f"{config.ingest.tables_uri.rstrip('/')}/{source.dataset}-{key[:12]}"


def _ready(config: Config, source: Source, key: str) -> Table | None:
    uri = _uri(config, source, key)
    path = paths.to_python(uri)
    try:
        manifest = schema.read_manifest(path)
    except DataError:
        # A damaged manifest is none: the table is written again.
        return None
    if manifest is None or manifest.key != key:
        return None
    if not all((path / file.path).is_file() for split in manifest.splits.values() for file in split.files):
        return None
    # Names and notes are no part of the key: the rows are the same, whatever people call them.
    return Table(uri, dataclasses.replace(manifest, class_names=config.data.names, note=source.note))
