"""Files and folders that are written whole: from the first byte to the last, under another name, and then renamed.

A reader finds such a file complete or not at all. It is also all that mounts of object stores take, as Databricks' `/dbfs` and
`/Volumes` are: no appends, and no going back while a file is written.
"""

import contextlib
import errno
import io
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any, BinaryIO

# What file systems answer that rename, but not over a file that is there; or that know nothing of fsync.
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EEXIST)
_PIECE_BYTES = 2**20
_STALE_SECONDS = 24 * 3600


class Sequential(io.RawIOBase):
    """A file for writing that does not go back: `numpy.savez` and `zipfile` then write what needs no going back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._file.write(data)


def write(path: Path, content: str | bytes) -> None:
    """Write a file whose folder is there. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    replace(unfinished, path)


def replace(unfinished: Path, path: Path) -> None:
    """Rename a finished file, over another where there is one. Raises OSError."""
    try:
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED or not path.exists():
            raise
        # Readers miss the file for a moment, as they may in a folder that others write to.
        path.unlink()
        os.replace(unfinished, path)


def copy(source: Path, path: Path) -> None:
    """Copy the content of a file, which may grow meanwhile. Folders are made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with source.open("rb") as content, unfinished.open("wb") as file:
        shutil.copyfileobj(content, file, _PIECE_BYTES)
    replace(unfinished, path)


def copy_folder(source: Path, folder: Path) -> None:
    """Copy all files below a folder. Raises OSError."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy(path, folder / path.relative_to(source))


def unfinished_folder(parent: Path, prefix: str, name: str) -> Path:
    """A new hidden folder in `parent`, to be filled and then renamed by `replace_folder`, or removed.

    Folders of this prefix that killed processes left are removed after a day; a younger one may belong to a live process.

    Args:
        parent: created where it is missing.
        prefix: what the folder is for, such as `.building-`. Begins with a dot, ends with a dash.
        name: what it will become, for people who look.

    Raises:
        OSError: `parent` cannot be written.
    """
    folder = parent / f"{prefix}{name}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    for other in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    return folder


def replace_folder(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder. A file, link or folder of that name is removed once the new one is in place. Raises OSError."""
    old = unfinished.with_name(f"{unfinished.name}-old")
    replaces = folder.is_symlink() or folder.exists()
    if replaces:
        folder.rename(old)
    try:
        unfinished.rename(folder)
    except OSError:
        if replaces:
            old.rename(folder)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


def bring_to_disk(file: BinaryIO) -> None:
    """What was written survives a crash of the machine, where the file system has means for that. Raises OSError."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
