"""The folder of a table: written under a hidden name, checked, and renamed when complete."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    """A new hidden folder in `parent`, removed at the end in any case.

    Raises:
        ConfigError: `parent`, given by the user as `setting`, cannot be written.
        DataError: an OSError in the body; mostly a full disk.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(atomic.unfinished(parent, ".building-", name))
        except OSError as error:
            raise ConfigError(
                f"ingest.tables_uri={setting}: cannot be written ({error.strerror}); name another folder"
            ) from error
        try:
            yield path
        except ConnectionError:
            # Spark exited; the folder is not at fault.
            raise
        except OSError as error:
            remedy = "free disk space or name another folder"
            raise DataError(f"ingest.tables_uri={setting}: the table cannot be written ({error.strerror}); {remedy}") from error


def summarize(path: Path, segments: tuple[Segment, ...], files: Sequence[WrittenFile]) -> dict[Split, SplitSummary]:
    """The splits of the table whose files are in `path`. Removes all other files there.

    Raises:
        DataError: a planned file was not written.
    """
    written = {(file.segment, file.file): file for file in files}
    splits: dict[Split, SplitSummary] = {}
    for number, segment in enumerate(segments):
        table_files = []
        rows_per_label = np.zeros(len(files[0].rows_per_label), np.int64)
        for index in range(segment.num_files):
            name, file = path_of(segment.split, index), written.get((number, index))
            if file is None or not (path / name).is_file():
                raise DataError(f"{path / name}: was not written; run again")
            rows_per_label += np.asarray(file.rows_per_label, np.int64)
            rows = segment.rows_of_file(index)
            table_files.append(TableFile(path=name, rows=rows, num_bytes=file.num_bytes, sha256=file.sha256))
        splits[segment.split] = SplitSummary(
            rows=segment.rows, rows_per_label=tuple(rows_per_label.tolist()), files=tuple(table_files)
        )
        atomic.keep_only((path / table_files[0].path).parent, [path / file.path for file in table_files])
    return splits


def publish(path: Path, target: Path, manifest: TableManifest) -> TableManifest:
    """Rename the finished folder `path` to `target`, then add the manifest that makes it a table.

    Replaces whatever is at `target`, unless it is the same table finished by another run.

    Returns:
        manifest of the table at `target`.

    Raises:
        DataError: `target` cannot be written.
    """
    hidden = path / f".{MANIFEST_NAME}"
    try:
        # Everything that needs disk space is written before the rename.
        hidden.write_text(manifest.to_json(), encoding="utf-8")
        if target.is_symlink() or target.exists():
            finished = _finished(target, manifest.key)
            if finished is not None:
                return finished
        atomic.replace_folder(path, target)
        (target / hidden.name).replace(target / MANIFEST_NAME)
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
