"""Reading a range of rows through Petastorm.

Convoy uses its reader, which decodes row groups ahead of time in a thread, but not these features of petastorm 0.13.1:

- sharding, which is by row group and needs at least as many as workers;
- epochs, which repeat one order, and seeds, where 0 means none;
- row shuffling, which busy-waits without a seed;
- the process pool, where a dead reader process hangs the job;
- its end of data. Its thread pool checks first whether all ventilated work is done and then whether all work was ventilated; what
  is ventilated in between is lost silently. 39 of 100 reads of 22 small files were incomplete. So this module counts rows and
  resumes reads that end too early.

Petastorm never gets the path of a folder: it would unpickle the schema in the folder's `_common_metadata`.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.stream.petastorm_compat import decode, read_row_groups
from pipelines.data.stream.sharding import FilePart, RowRange, file_parts
from pipelines.data.table import row_parts
from pipelines.data.table.schema import Split, Table
from pipelines.errors import DataError
from pipelines.system import paths
from pipelines.system.fingerprint import fingerprint

Block = tuple[npt.NDArray[Any], ...]
"""Parts of n rows (`pipelines.data.table.row_parts`), as Keras' `fit` takes them: inputs [n, *shape] of the table's dtype;
targets, int32 [n] or float32 [n, targets]; and weights, float32 [n], if the rows have weights."""

# (path, hash, inode, mtime) of files verified by this process. Streaming reads a file again in every epoch.
_intact: set[tuple[str, str, int, int]] = set()
# Files per Petastorm reader. Opening a reader takes milliseconds; a seeded order keeps table order within a group.
FILES_AT_ONCE = 16
_VISIBLE_WITHIN_SECONDS = 3.0
# A file whose hash is right has rows.
_EMPTY_READS = 20


def read_blocks(table: Table, split: Split, rows: RowRange, *, order_seed: int | None = None) -> Iterator[Block]:
    """Read the rows of a range, one row group at a time.

    Args:
        table: the table.
        split: the split.
        rows: range of rows of the split, in table order.
        order_seed: None for table order; otherwise seed of a pseudo-random order of the row groups; 0 is a valid seed.

    Yields:
        Blocks of n rows; n varies.

    Raises:
        DataError: a file is missing, unreadable, or does not match the manifest.
    """
    parts = list(file_parts(table.manifest.splits[split].files, rows))
    if order_seed is not None:
        np.random.default_rng(order_seed).shuffle(parts)  # type: ignore[arg-type, unused-ignore]
    for first in range(0, len(parts), FILES_AT_ONCE):
        # Petastorm sorts files by path; sort the parts likewise to match blocks to them.
        group = sorted(parts[first : first + FILES_AT_ONCE], key=lambda part: part.path)
        _check_content(table, split, {part.path for part in group})
        for part, block in zip(group, _read_whole(table, group), strict=True):
            yield tuple(values[part.start : part.stop] for values in block)


def _check_content(table: Table, split: Split, files: Set[str]) -> None:
    """Raises DataError if a file's bytes have changed, which Parquet itself may not detect."""
    folder = paths.to_python(table.uri)
    for file in table.manifest.splits[split].files:
        if file.path not in files:
            continue
        path = folder / file.path
        try:
            status = _stat_once_visible(path)
            state = (str(path), file.sha256, status.st_ino, status.st_mtime_ns)
            if state in _intact:
                continue
            content = fingerprint(path)
        except OSError as error:
            if not folder.is_dir():
                raise DataError(
                    f"table {table.uri}: {socket.gethostname()} has no folder {folder}, which the driver has; "
                    "ingest.tables_uri must be visible to all nodes"
                ) from error
            raise _damaged(table, f"{file.path} cannot be read ({error.strerror})") from error
        if content.sha256 != file.sha256:
            raise _damaged(table, f"{file.path} is not as it was written: some of its bytes have changed")
        _intact.add(state)


def _stat_once_visible(path: Path) -> os.stat_result:
    """Wait for a file that the driver saw: on a mounted store other machines may see it seconds later."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while True:
        try:
            return path.stat()
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def _read_whole(table: Table, parts: Sequence[FilePart]) -> Iterator[Block]:
    """One block per file, in path order, resuming when Petastorm ends too early."""
    done = empty_reads = 0
    while done < len(parts):
        done_before = done
        for block in _petastorm_blocks(table, [part.path for part in parts[done:]]):
            part = parts[done]
            if len(block[1]) != part.rows:
                raise _damaged(table, f"{part.path} has {len(block[1])} rows where the manifest says {part.rows}")
            done += 1
            yield block
        # On a busy machine even a single file is sometimes lost.
        empty_reads = empty_reads + 1 if done == done_before else 0
        if empty_reads == _EMPTY_READS:
            raise _damaged(table, f"{parts[done].path} has no rows, in {_EMPTY_READS} attempts to read it")


def _petastorm_blocks(table: Table, files: Sequence[str]) -> Iterator[Block]:
    base = paths.to_petastorm(table.uri)
    parts = row_parts.of_table(table.manifest)
    try:
        reader = read_row_groups([f"{base}/{file}" for file in files], [part.column for part in parts])
        try:
            for row_group in reader:
                yield tuple(decode(row_group, part) for part in parts)
        finally:
            # `with` would also print to the rank's log at the end, which on a full disk raises an error unrelated to the table.
            reader.stop()
            reader.join()
    except (OSError, ValueError, AttributeError, NotImplementedError) as error:
        raise _damaged(table, str(error)) from error


def _damaged(table: Table, reason: str) -> DataError:
    return DataError(f"table {table.uri}: {reason}; delete the folder and ingest again")
