"""Atomic writes of files and folders: written sequentially under a temporary name, then renamed.

A reader sees such a file complete or not at all. Object-store mounts, such as Databricks' `/dbfs` and `/Volumes`, support nothing
else: neither appends nor seeks while writing.
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

# Errors of file systems that cannot rename over an existing file, or that do not support fsync.
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EEXIST)
_PIECE_BYTES = 2**20
_STALE_SECONDS = 24 * 3600


class Sequential(io.RawIOBase):
    """A writable file without seek: `numpy.savez` and `zipfile` then write a format that needs none."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._file.write(data)


def owner_only(path: str, flags: int) -> int:
    """The `opener` of a file that its owner alone may read, where the file system has permissions. Raises OSError."""
    return os.open(path, flags, 0o600)


def write(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Write a file in an existing folder; `private`: for its owner alone. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with open(unfinished, "wb", opener=owner_only if private else None) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    replace(unfinished, path)


def replace(unfinished: Path, path: Path) -> None:
    """Rename a finished file, replacing any existing one. Raises OSError."""
    try:
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED or not path.exists():
            raise
        # The file is missing for a moment. Readers of shared folders expect that.
        path.unlink()
        os.replace(unfinished, path)


def copy(source: Path, path: Path) -> None:
    """Copy the content of a file, which may be growing. One for its owner alone stays so. Creates folders. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    private = source.stat().st_mode & 0o077 == 0
    with source.open("rb") as content, open(unfinished, "wb", opener=owner_only if private else None) as file:
        shutil.copyfileobj(content, file, _PIECE_BYTES)
    replace(unfinished, path)


def copy_folder(source: Path, folder: Path) -> None:
    """Copy all files below a folder. Raises OSError."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy(path, folder / path.relative_to(source))


def unfinished_folder(parent: Path, prefix: str, name: str) -> Path:
    """Create a hidden folder in `parent`, to be filled and then renamed by `replace_folder`, or removed.

    Folders with this prefix left by killed processes are removed after a day; a newer one may belong to a live process.

    Args:
        parent: created if missing.
        prefix: purpose of the folder, such as `.building-`; begins with a dot, ends with a dash.
        name: name of the future folder, to recognize it by.

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
    """Rename a finished folder, replacing any existing file, link or folder. On failure that stays. Raises OSError."""
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


def flush_to_disk(file: BinaryIO) -> None:
    """Make what was written survive a machine crash, if the file system supports fsync. Raises OSError."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
