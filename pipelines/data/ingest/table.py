"""The Parquet table of a source: reused if it exists, otherwise written."""

import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from pyspark.sql import SparkSession

import pipelines
from pipelines.config import Config, DataConfig
from pipelines.data.ingest import publish, training_rows
from pipelines.data.ingest.build import WrittenTable, write_rows
from pipelines.data.sources.source import Source
from pipelines.data.table import empty_classes, schema, verify
from pipelines.data.table.schema import SourceFile, Split, SplitSummary, Table, TableManifest
from pipelines.errors import DataError
from pipelines.system import paths
from pipelines.system.fingerprint import Fingerprint, json_sha256
from pipelines.system.reporter import NullReporter, Reporter


def find(config: Config, source: Source) -> Table | None:
    """The table of this source and these settings if it exists. Needs no Spark, and does not find that of a source that does.

    Raises:
        DataError: a source file cannot be read, or the table excludes more lines than ingest.max_bad_fraction allows.
    """
    return None if source.needs_spark else _find(config, source, fingerprints_of(source), NullReporter())


def possible_keys(config: Config, source: Source, fingerprints: Sequence[Fingerprint]) -> list[str]:
    """The keys that the table of this source and these settings can have: another one if it has no malformed lines."""
    return [_key(config, source, fingerprints, without_bad_rows=without) for without in _exclusions(config)]


def open_or_build(
    spark: SparkSession, config: Config, source: Source, reporter: Reporter, fingerprints: Sequence[Fingerprint] | None = None
) -> tuple[Table, bool]:
    """The table of this source and these settings, and whether it was just written.

    A damaged table is rewritten, and the reason is reported. The folder is renamed when all rows are written, and then gets its
    manifest. A failure leaves nothing behind.

    Args:
        spark: the session.
        config: `data` and `ingest` determine the table.
        source: from `pipelines.data.sources.resolve.resolve_source`.
        reporter: receives progress messages.
        fingerprints: those of the source files if they were read already (`fingerprints_of`).

    Raises:
        DataError: a line is malformed (the message begins `FILE:LINE: `), a file is damaged, or there are no rows.
        ConfigError: ingest.tables_uri cannot be written, or ingest.rows_per_row_group is too large for these rows.
    """
    source, config = source.opened(spark, config, reporter)
    fingerprints = fingerprints_of(source) if fingerprints is None else fingerprints
    table = _find(config, source, fingerprints, reporter)
    if table is not None:
        _report(table.manifest, reporter)
        return table, False
    source.check()
    started = time.monotonic()
    reporter.say(f"ingest: Spark reads {' and '.join(dict.fromkeys(location for location, _ in source.files))}")
    clean_key = _key(config, source, fingerprints, without_bad_rows=False)
    parent = paths.to_python(_uri(config, source, clean_key)).parent
    with publish.building(parent, clean_key[:12], config.ingest.tables_uri) as unfinished:
        written = write_rows(spark, config, source, unfinished)
        for warning in written.rejected.warnings:
            reporter.warn(warning)
        if written.hint:
            reporter.say(written.hint)
        key = _key(config, source, fingerprints, without_bad_rows=written.rejected.rows > 0)
        uri = _uri(config, source, key)
        target = paths.to_python(uri)
        splits = publish.summarize(unfinished, written.plan.segments, written.files)
        hashes = training_rows.collect(written.plan.segments, written.files, written.plan.hash_limit)
        named = bool(config.data.test_file)
        warning = training_rows.repeated_test_rows(written.plan.segments, written.files, hashes, test_file_is_named=named)
        if warning:
            reporter.warn(f"{source.dataset}: {warning}")
        manifest = _manifest(config, source, fingerprints, written, splits, key)
        manifest = dataclasses.replace(manifest, training_rows_sha256=training_rows.write(unfinished, hashes))
        if fingerprints_of(source) != fingerprints:
            raise DataError(f"{source.files[0][0]}: the source changed while it was read; run again when it is complete")
        manifest = publish.publish(unfinished, target, manifest)
    rows = sum(split.rows for split in manifest.splits.values())
    reporter.say(f"ingest: {rows:,} rows written to {paths.display(target)} in {time.monotonic() - started:.1f} s")
    _report(manifest, reporter)
    return Table(uri, manifest), True


def _report(manifest: TableManifest, reporter: Reporter) -> None:
    if not manifest.spec.checks_range:
        low, high = manifest.spec.value_range
        reporter.say(f"data.value_range=auto: the values of the training rows range from {low:g} to {high:g}")
    warning = empty_classes.warning(manifest)
    if warning:
        reporter.warn(warning)


def _manifest(
    config: Config,
    source: Source,
    fingerprints: Sequence[Fingerprint],
    written: WrittenTable,
    splits: dict[Split, SplitSummary],
    key: str,
) -> TableManifest:
    rows, rejected, moments = written.rows_per_file, written.rejected, written.target_moments
    return TableManifest(
        dataset=source.dataset,
        spec=written.spec,
        target_names=config.data.target_names,
        target_means=tuple(moments.means.tolist()) if moments else (),
        target_deviations=tuple(moments.deviations.tolist()) if moments else (),
        weighted=written.plan.weighted,
        labels=config.data.label_values,
        class_names=source.class_names(config.data),
        splits=splits,
        sources=tuple(
            SourceFile(
                uri=uri,
                split=split,
                num_bytes=fingerprints[number].num_bytes,
                sha256=fingerprints[number].sha256,
                rows=rows[number],
                rejected_rows=rejected.per_file[number],
            )
            for number, (uri, split) in enumerate(source.files)
        ),
        seed=config.ingest.seed,
        rejected_rows=rejected.rows,
        rejected_by_reason=dict(rejected.by_reason),
        note=source.note,
        key=key,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        convoy_version=pipelines.__version__,
        reading=source.reading(config.data),
    )


def _check_test_files(config: Config, source: Source, fingerprints: Sequence[Fingerprint], reporter: Reporter) -> None:
    """Raises DataError if data.test_file names a copy of the training file. Warns if a folder brings such a copy."""
    training = {content: uri for (uri, split), content in zip(source.files, fingerprints, strict=True) if split == "train"}
    for (uri, split), content in zip(source.files, fingerprints, strict=True):
        if split == "test" and content in training:
            problem = f"{uri}: has the same content as the training data {training[content]}, so every test row is a training row"
            if config.data.test_file:
                raise DataError(f"{problem}; name other test data, or none to draw test rows (ingest.test_fraction)")
            reporter.warn(f"{problem}; the test accuracy says nothing about new rows")


def fingerprints_of(source: Source) -> Sequence[Fingerprint]:
    """Fingerprints of the source files, in order. Raises DataError if one cannot be read."""
    fingerprints = []
    for number, (uri, _) in enumerate(source.files):
        try:
            fingerprints.append(source.fingerprint(number))
        except OSError as error:
            raise DataError(f"{uri}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return fingerprints


def _key(config: Config, source: Source, fingerprints: Sequence[Fingerprint], *, without_bad_rows: bool) -> str:
    """Key of the table. A table without rejected lines has the same key for any ingest.on_bad_rows."""
    given = {split for _, split in source.files}
    return json_sha256(
        {
            "schema_version": schema.SCHEMA_VERSION,
            "sources": [[split, content.sha256] for (_, split), content in zip(source.files, fingerprints, strict=True)],
            "image_shape": config.data.image_shape,
            "value_range": config.data.value_range,
            "labels": config.data.label_values,
            **_differences(config.data),
            "zero_based": config.data.zero_based,
            "validation_fraction": config.ingest.validation_fraction if "validation" not in given else None,
            "test_fraction": config.ingest.test_fraction if "test" not in given else None,
            "seed": config.ingest.seed,
            "rows_per_row_group": config.ingest.rows_per_row_group,
            "without_bad_rows": without_bad_rows,
            **source.key_settings(config.data),
        }
    )


def _differences(data: DataConfig) -> dict[str, Any]:
    """What is part of the key only where it is not as in tables of classified pictures, which keep their keys."""
    settings = {"features": data.features, "targets": len(data.target_names)}
    different: dict[str, Any] = {name: value for name, value in settings.items() if value}
    return different | ({"scaling": data.scaling} if data.scaling != "range" else {})


def _uri(config: Config, source: Source, key: str) -> str:
    # Before anything is written: ranks could not read the table there.
    paths.to_petastorm(config.ingest.tables_uri)
    return f"{config.ingest.tables_uri.rstrip('/')}/{source.dataset}-{key[:12]}"


def _find(config: Config, source: Source, fingerprints: Sequence[Fingerprint], reporter: Reporter) -> Table | None:
    _check_test_files(config, source, fingerprints, reporter)
    for without_bad_rows in _exclusions(config):
        key = _key(config, source, fingerprints, without_bad_rows=without_bad_rows)
        uri = _uri(config, source, key)
        path = paths.to_python(uri)
        if not path.is_dir():
            continue
        try:
            manifest = schema.read_manifest(path)
        except DataError as error:
            reporter.warn(f"{error.args[0].partition(';')[0]}; the table is rewritten")
            continue
        defect = _mismatch(config, manifest, key) or verify.find_damage(path, manifest) if manifest else "has no manifest"
        if manifest is None or defect:
            reporter.warn(f"table {uri}: {defect}; the table is rewritten")
            continue
        _check_limit(config, manifest)
        # Names and notes are not part of the key: they do not change the rows.
        names, reading = source.class_names(config.data), source.reading(config.data)
        return Table(uri, dataclasses.replace(manifest, class_names=names, note=source.note, reading=reading))
    return None


def _exclusions(config: Config) -> Sequence[bool]:
    """Whether the table may lack malformed lines: no, or both."""
    return (False, True) if config.ingest.on_bad_rows == "quarantine" else (False,)


def _mismatch(config: Config, manifest: TableManifest, key: str) -> str | None:
    """How the manifest differs from the one expected for these settings; None if it does not."""
    if manifest.key != key:
        return "its manifest belongs to another table"
    spec, data = manifest.spec, config.data
    expected = (data.shape, data.value_range, data.label_values, config.ingest.seed)
    actual = (spec.shape, spec.value_range if spec.checks_range else "auto", manifest.labels, manifest.seed)
    if actual != expected:
        return f"its manifest says shape, value range, labels and seed {actual}, the settings {expected}"
    return None


def _check_limit(config: Config, manifest: TableManifest) -> None:
    limit = config.ingest.max_bad_fraction
    for file in manifest.sources:
        lines = file.rows + file.rejected_rows
        if file.rejected_rows > limit * lines:
            raise DataError(
                f"{file.uri}: {file.rejected_rows:,} of {lines:,} rows are malformed; that is more than "
                f"ingest.max_bad_fraction={limit:g} allows: fix the data"
            )
