"""Reading a range of rows through Petastorm.

What is used is its reader: row groups decoded ahead of time by a thread. What is not used, with petastorm 0.13.1:

- its sharding, which goes by row group and needs as many of them as workers;
- its epochs, which repeat one order, and its seeds, where 0 means none;
- its row shuffling, which spins while it waits when it has no seed;
- its process pool, where a dead reader process hangs the job;
- its word that all rows were delivered. Its thread pool looks first whether all work handed out is done and then whether all was
  handed out; what is handed out in between is lost without an error. 39 of 100 reads of 22 small files came short. So rows are
  counted here, and reading goes on where it stopped too early.

Nor is it let near a path that is no file: of a folder it would unpickle the schema in `_common_metadata`.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.data.stream.petastorm_compat import make_batch_reader
from pipelines.data.stream.sharding import FilePart, RowRange, file_parts
from pipelines.data.table.schema import IMAGE_COLUMN, LABEL_COLUMN, ImageSpec, Split, Table
from pipelines.errors import DataError
from pipelines.system import paths
from pipelines.system.fingerprint import fingerprint

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Block = tuple[Images, Labels]

# (path, hash, inode, time of change) of files that were found whole in this process. Streaming reads a file anew each epoch.
_intact: set[tuple[str, str, int, int]] = set()
# Files that one Petastorm reader opens. Opening costs some milliseconds, and a seeded order keeps table order within a group.
FILES_AT_ONCE = 16
_SEEN_WITHIN_SECONDS = 3.0


def read_blocks(table: Table, split: Split, rows: RowRange, *, order_seed: int | None = None) -> Iterator[Block]:
    """Read the rows of a range, one row group at a time.

    Args:
        table: where to read.
        split: which part of the table.
        rows: rows of the split, in table order.
        order_seed: None for table order; otherwise the row groups come in a pseudo-random order of this seed, 0 included.

    Yields:
        images [n, height, width, channels] of the table's dtype, labels [n] int32; n differs between blocks.

    Raises:
        DataError: a file is missing, unreadable, or does not hold what the manifest says.
    """
    parts = list(file_parts(table.manifest.splits[split].files, rows))
    if order_seed is not None:
        np.random.default_rng(order_seed).shuffle(parts)  # type: ignore[arg-type, unused-ignore]
    for first in range(0, len(parts), FILES_AT_ONCE):
        # Petastorm sorts files by path, so the parts are sorted to know which one a block belongs to.
        group = sorted(parts[first : first + FILES_AT_ONCE], key=lambda part: part.path)
        _check_content(table, split, {part.path for part in group})
        for part, (images, labels) in zip(group, _read_whole(table, group), strict=True):
            yield images[part.start : part.stop], labels[part.start : part.stop]


def _check_content(table: Table, split: Split, wanted: Set[str]) -> None:
    """Raises DataError when the bytes of a file are not those that were written: Parquet itself can decode changed ones."""
    folder = paths.to_python(table.uri)
    for file in table.manifest.splits[split].files:
        if file.path not in wanted:
            continue
        path = folder / file.path
        try:
            status = _once_seen(path)
            state = (str(path), file.sha256, status.st_ino, status.st_mtime_ns)
            if state in _intact:
                continue
            found = fingerprint(path)
        except OSError as error:
            if not folder.is_dir():
                raise DataError(
                    f"table {table.uri}: {socket.gethostname()} has no folder {folder}, which the driver has; "
                    "ingest.tables_uri must be one that all nodes see"
                ) from error
            raise _damaged(table, f"{file.path} cannot be read ({error.strerror})") from error
        if found.sha256 != file.sha256:
            raise _damaged(table, f"{file.path} is not as it was written: some of its bytes have changed")
        _intact.add(state)


def _once_seen(path: Path) -> os.stat_result:
    """The driver saw the file; on a mounted store other machines can see it some seconds later."""
    deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
    while True:
        try:
            return path.stat()
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def _read_whole(table: Table, parts: Sequence[FilePart]) -> Iterator[Block]:
    """One block for each file, in path order, however often Petastorm ends too early."""
    done = 0
    while done < len(parts):
        done_before = done
        for block in _petastorm_blocks(table, [part.path for part in parts[done:]]):
            part = parts[done]
            if len(block[1]) != part.rows:
                raise _damaged(table, f"{part.path} holds {len(block[1])} rows where the manifest says {part.rows}")
            done += 1
            yield block
        if done == done_before:
            raise _damaged(table, f"{parts[done].path} holds no rows")


def _petastorm_blocks(table: Table, files: Sequence[str]) -> Iterator[Block]:
    base = paths.to_petastorm(table.uri)
    try:
        reader = make_batch_reader(
            [f"{base}/{file}" for file in files],
            schema_fields=[f"^{IMAGE_COLUMN}$", f"^{LABEL_COLUMN}$"],
            reader_pool_type="thread",
            # More threads would let blocks overtake each other.
            workers_count=1,
            shuffle_row_groups=False,
            num_epochs=1,
        )
        try:
            for batch in reader:
                yield _decode(batch.image, table.manifest.image), np.asarray(batch.label, dtype=np.int32)
        finally:
            # The end of a `with` would also print, into a rank's log: on a full disk that is an error, which is not the table's.
            reader.stop()
            reader.join()
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(table, str(error)) from error


def _decode(encoded: npt.NDArray[np.object_], image: ImageSpec) -> Images:
    """Bytes objects [n] to values [n, height, width, channels]."""
    flat = b"".join(encoded)
    if len(flat) != len(encoded) * image.num_bytes:
        raise ValueError(f"an image does not hold the {image.num_bytes} bytes of {image.shape} {image.dtype}")
    return np.frombuffer(flat, dtype=np.dtype(image.dtype).newbyteorder("<")).reshape(len(encoded), *image.shape)


def _damaged(table: Table, reason: str) -> DataError:
    return DataError(f"table {table.uri}: {reason}; delete the folder and ingest again")
