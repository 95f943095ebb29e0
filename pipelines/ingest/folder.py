"""A table's folder: written under a hidden name, checked, and put in its place at once."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipelines.errors import ConfigError, DataError
from pipelines.fingerprint import fingerprint
from pipelines.ingest.order import Segment
from pipelines.ingest.verify import damage
from pipelines.schema import (
    LABEL_COLUMN,
    MANIFEST_NAME,
    SPLIT_COLUMN,
    Split,
    SplitSummary,
    TableFile,
    TableManifest,
    read_manifest,
)

# Spark writes below this name; `arrange` moves the files out of it.
ROWS_FOLDER = "rows"
FILE_COLUMN = "file"
_PREFIX = ".building-"
_STALE_SECONDS = 24 * 3600


@contextmanager
def building(parent: Path, name: str, setting: str) -> Iterator[Path]:
    """A new hidden folder in `parent`, which is gone at the end, whatever happened.

    Raises:
        ConfigError: `parent`, which the user named as `setting`, cannot be written.
        DataError: the operating system refused something in the body; mostly the disk is full.
    """
    path = parent / f"{_PREFIX}{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"ingest.tables_uri={setting}: cannot be written ({error.strerror}); name another folder") from error
    remove_stale(parent, _PREFIX)
    try:
        yield path
    except ConnectionError:
        # Spark is gone; that says nothing about the folder.
        raise
    except OSError as error:
        raise DataError(
            f"ingest.tables_uri={setting}: the table could not be written ({error.strerror}); make room, or name another folder"
        ) from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def arrange(path: Path, segments: tuple[Segment, ...], num_classes: int) -> dict[Split, SplitSummary]:
    """Give the files that Spark wrote their final names, and check each of them against the plan.

    Spark leaves `rows/split=S/file=N/part-*.parquet`; the table has `split=S/part-N.parquet`, so that path order is row order.

    Raises:
        DataError: a file is missing, is not one row group, or holds another number of rows than planned.
    """
    splits: dict[Split, SplitSummary] = {}
    for segment in segments:
        folder = path / f"{SPLIT_COLUMN}={segment.split}"
        folder.mkdir()
        rows_per_label = np.zeros(num_classes, np.int64)
        files = []
        for number in range(segment.num_files):
            written = path / ROWS_FOLDER / folder.name / f"{FILE_COLUMN}={number}"
            parts = list(written.glob("part-*.parquet"))
            if len(parts) != 1:
                raise DataError(f"{written}: {len(parts)} Parquet files instead of one; delete the tables folder and run again")
            final = folder / f"part-{number:05d}.parquet"
            parts[0].rename(final)
            rows = segment.rows_of_file(number)
            rows_per_label += _labels_of(final, rows, num_classes)
            found = fingerprint(final)
            files.append(TableFile(path=str(final.relative_to(path)), rows=rows, num_bytes=found.num_bytes, sha256=found.sha256))
        splits[segment.split] = SplitSummary(rows=segment.rows, rows_per_label=tuple(rows_per_label.tolist()), files=tuple(files))
    shutil.rmtree(path / ROWS_FOLDER)
    return splits


def publish(path: Path, target: Path, manifest: TableManifest) -> TableManifest:
    """Move the finished folder `path` to `target`, then give it the manifest that makes it a table.

    What lies at `target` and is not this table gives way. Where another run has finished the same table, that one stays.

    Returns:
        the manifest of the table at `target`.

    Raises:
        DataError: `target` cannot be written.
    """
    waiting = path / f".{MANIFEST_NAME}"
    try:
        # All that needs room on the disk is written before the folder gets its name.
        waiting.write_text(manifest.to_json(), encoding="utf-8")
        if target.is_symlink() or target.exists():
            finished = _finished(target, manifest.key)
            if finished is not None:
                return finished
            old = path.with_name(f"{path.name}-old")
            target.rename(old)
            _remove(old)
        path.rename(target)
        (target / waiting.name).replace(target / MANIFEST_NAME)
    except OSError as error:
        raise DataError(f"{target}: cannot be completed ({error.strerror}); another run may be writing it, run again") from error
    return manifest


def _finished(target: Path, key: str) -> TableManifest | None:
    try:
        manifest = read_manifest(target)
    except DataError:
        return None
    if manifest is None or manifest.key != key or damage(target, manifest) is not None:
        return None
    return manifest


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _labels_of(file: Path, rows: int, num_classes: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    with pq.ParquetFile(file) as parquet:
        metadata = parquet.metadata
        if (metadata.num_row_groups, metadata.num_rows) != (1, rows):
            raise DataError(
                f"{file}: {metadata.num_rows} rows in {metadata.num_row_groups} row groups instead of {rows} in one; "
                "give Spark more memory (spark.driver.memory) or set ingest.rows_per_row_group lower"
            )
        labels = parquet.read(columns=[LABEL_COLUMN]).column(0).to_numpy()
    return np.bincount(labels, minlength=num_classes)


def remove_stale(parent: Path, prefix: str) -> None:
    """Clear the unfinished folders that killed jobs left. A younger one may belong to a job that is alive."""
    for path in parent.glob(f"{prefix}*"):
        try:
            stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
        except OSError:
            continue
        if stale:
            shutil.rmtree(path, ignore_errors=True)
