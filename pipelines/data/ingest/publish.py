"""A table's folder: written under a hidden name, checked, and put in its place at once."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipelines.data.ingest.permutation import Segment
from pipelines.data.ingest.write_pass import WrittenFile, path_of
from pipelines.data.table.schema import MANIFEST_NAME, Split, SplitSummary, TableFile, TableManifest, read_manifest
from pipelines.data.table.verify import find_damage
from pipelines.errors import ConfigError, DataError
from pipelines.system import atomic


@contextmanager
def building(parent: Path, name: str, setting: str) -> Iterator[Path]:
    """A new hidden folder in `parent`, which is gone at the end, whatever happened.

    Raises:
        ConfigError: `parent`, which the user named as `setting`, cannot be written.
        DataError: the operating system refused something in the body; mostly the disk is full.
    """
    try:
        path = atomic.unfinished_folder(parent, ".building-", name)
    except OSError as error:
        raise ConfigError(f"ingest.tables_uri={setting}: cannot be written ({error.strerror}); name another folder") from error
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


def summarize(path: Path, segments: tuple[Segment, ...], files: Sequence[WrittenFile]) -> dict[Split, SplitSummary]:
    """The splits of a table whose files lie in `path`, where all that is no file of the table goes.

    Raises:
        DataError: a file that the plan names was not written.
    """
    found = {(file.segment, file.file): file for file in files}
    splits: dict[Split, SplitSummary] = {}
    for number, segment in enumerate(segments):
        mine = []
        rows_per_label = np.zeros(len(files[0].rows_per_label), np.int64)
        for place in range(segment.num_files):
            name, file = path_of(segment.split, place), found.get((number, place))
            if file is None or not (path / name).is_file():
                raise DataError(f"{path / name}: was not written; run again")
            rows_per_label += file.rows_per_label
            mine.append(TableFile(path=name, rows=segment.rows_of_file(place), num_bytes=file.num_bytes, sha256=file.sha256))
        splits[segment.split] = SplitSummary(rows=segment.rows, rows_per_label=tuple(rows_per_label.tolist()), files=tuple(mine))
        # What tasks left that were killed while they wrote.
        for rest in set((path / mine[0].path).parent.iterdir()) - {path / file.path for file in mine}:
            rest.unlink()
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
        atomic.replace_folder(path, target)
        (target / waiting.name).replace(target / MANIFEST_NAME)
    except OSError as error:
        raise DataError(f"{target}: cannot be completed ({error.strerror}); another run may be writing it, run again") from error
    return manifest


def _finished(target: Path, key: str) -> TableManifest | None:
    try:
        manifest = read_manifest(target)
    except DataError:
        return None
    if manifest is None or manifest.key != key or find_damage(target, manifest) is not None:
        return None
    return manifest
