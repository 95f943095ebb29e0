"""Atomic writes of files and folders: written sequentially under a temporary name, then renamed.

A reader sees such a file complete or not at all. Object-store mounts, such as Databricks' `/dbfs` and `/Volumes`, support nothing
else: neither appends nor seeks while writing.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk without room."""
# Errors of file systems that cannot rename over an existing file, or that do not support fsync.
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EEXIST)
_PIECE_BYTES = 2**20
_STALE_SECONDS = 24 * 3600
_TOUCH_SECONDS = 600.0
# Ends the name of a folder that is being replaced, between two renames.
_OLD = "-old"
_RENAMING_SECONDS = 60


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
    """Write a file in an existing folder; `private`: for its owner alone. A pipe or a device is written to. Raises OSError."""
    if path.exists() and not path.is_file():
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return
    with _written(path, private=private) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def replace(unfinished: Path, path: Path) -> None:
    """Rename a finished file, replacing any existing one. Raises OSError."""
    try:
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED or not path.exists():
            raise
        # The file is missing for a moment. Readers of shared folders expect that.
        path.unlink(missing_ok=True)
        os.replace(unfinished, path)


@contextlib.contextmanager
def _written(path: Path, *, private: bool) -> Iterator[BinaryIO]:
    """A file that becomes `path` at the end of the block. Of several writers the last to finish wins; each file is whole."""
    unfinished = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.unfinished")
    try:
        with open(unfinished, "wb", opener=owner_only if private else None) as file:
            yield file
        replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def copy(source: Path, path: Path) -> None:
    """Copy the content of a file, which may be growing. One for its owner alone stays so. Creates folders. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    private = source.stat().st_mode & 0o077 == 0
    with source.open("rb") as content, _written(path, private=private) as file:
        shutil.copyfileobj(content, file, _PIECE_BYTES)


def copy_folder(source: Path, folder: Path) -> None:
    """Copy all files below a folder. Raises OSError."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy(path, folder / path.relative_to(source))


@contextlib.contextmanager
def unfinished(parent: Path, prefix: str, name: str) -> Iterator[Path]:
    """`unfinished_folder`, which no other process takes for abandoned during the block, and which is removed at its end.

    Raises:
        OSError: `parent` cannot be written.
    """
    folder = unfinished_folder(parent, prefix, name)
    ended = threading.Event()

    def keep_young() -> None:
        # A cluster may work for hours before it writes the first file.
        while not ended.wait(_TOUCH_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(folder)

    threading.Thread(target=keep_young, name="unfinished", daemon=True).start()
    try:
        yield folder
    finally:
        ended.set()
        shutil.rmtree(folder, ignore_errors=True)


def unfinished_folder(parent: Path, prefix: str, name: str) -> Path:
    """Create a hidden folder in `parent`, to be filled and then renamed by `replace_folder`, or removed.

    Folders with this prefix left by killed processes are removed after a day without a change in them; in a younger one a live
    process may be at work. A folder that such a process was about to replace is put back.

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
            replaced = re.fullmatch(rf"{re.escape(prefix)}(.+)-[0-9a-f]{{8}}{_OLD}", other.name)
            if replaced is not None and time.time() - other.lstat().st_ctime > _RENAMING_SECONDS:
                _put_back(other, parent / replaced[1])
            elif replaced is None and time.time() - _last_change(other) > _STALE_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    return folder


def replace_folder(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder, replacing any existing file, link or folder. On failure that stays.

    Raises:
        OSError: `strerror` names the hidden folder with what was there, if that could not be put back either.
    """
    old = unfinished.with_name(f"{unfinished.name}{_OLD}")
    replaces = folder.is_symlink() or folder.exists()
    if replaces:
        folder.rename(old)
    try:
        unfinished.rename(folder)
    except BaseException as error:
        # An interrupt, too, must not leave what was there under a hidden name.
        if replaces:
            try:
                old.rename(folder)
            except OSError as again:
                reason = error.strerror if isinstance(error, OSError) else again.strerror
                raise OSError(again.errno, f"{reason}; what was there is now {old}", str(folder)) from error
        raise
    if replaces:
        _discard(old)


def keep_only(folder: Path, kept: Collection[Path]) -> None:
    """Remove everything else in a folder, such as what killed tasks left. One that still runs may remove its own first."""
    for leftover in set(folder.iterdir()) - set(kept):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _put_back(old: Path, folder: Path) -> None:
    """Undo the first half of a replacement whose process was killed, or finish it. Raises OSError."""
    if folder.is_symlink() or folder.exists():
        _discard(old)
    else:
        old.rename(folder)


def _discard(old: Path) -> None:
    # What is removed in part must not be put back later.
    replaced = old.with_name(f"{old.name.removesuffix(_OLD)}-replaced")
    old.rename(replaced)
    if replaced.is_dir() and not replaced.is_symlink():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        replaced.unlink(missing_ok=True)


def _last_change(folder: Path) -> float:
    """When a folder or anything below it last changed, in seconds since the Unix epoch. Raises OSError."""
    times = [folder.lstat().st_mtime]
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                times.append(os.lstat(os.path.join(path, name)).st_mtime)
    return max(times)


def flush_to_disk(file: BinaryIO) -> None:
    """Make what was written survive a machine crash, if the file system supports fsync. Raises OSError."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
