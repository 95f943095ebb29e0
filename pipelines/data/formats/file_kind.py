"""What the files that the user names hold: libsvm text, Parquet or pictures. One rule for all readers."""

import os
from pathlib import Path
from typing import Literal

from pipelines.data.formats import image_file
from pipelines.data.formats.libsvm import is_libsvm
from pipelines.errors import DataError
from pipelines.system import listing

FileKind = Literal["libsvm", "parquet", "picture"]
_PARQUET_MAGIC = b"PAR1"
_PARQUET_ENDINGS = (".parquet", ".parq", ".pq")
_PART_PREFIX = "part-"


def file_kind(path: Path) -> FileKind:
    """By the ending of the name, or else by the first bytes. A file that is neither Parquet nor a picture is text.

    Raises:
        OSError: the file cannot be read.
    """
    kind = _kind_by_name(path)
    if kind is not None:
        return kind
    with path.open("rb") as file:
        head = file.read(image_file.SIGNATURE_BYTES)
    if head.startswith(_PARQUET_MAGIC):
        return "parquet"
    return "picture" if image_file.has_signature(head) else "libsvm"


def _kind_by_name(path: Path) -> FileKind | None:
    if is_libsvm(path):
        return "libsvm"
    if path.suffix.lower() in image_file.ENDINGS:
        return "picture"
    return "parquet" if path.suffix.lower() in _PARQUET_ENDINGS else None


def files_by_kind(path: Path) -> dict[FileKind, list[Path]]:
    """The file, or the files in the folder and its sub-folders, by what they hold. Hidden files and empty parts do not count.

    Files whose names say nothing count only if the folder holds no others, or if Spark named them `part-...`.

    Raises:
        OSError: a file or folder cannot be read.
        DataError: a symbolic link leads nowhere or in circles.
    """
    if not path.is_dir():
        return {file_kind(path): [path]}
    # Spark writes an empty part for an empty partition.
    files = [file for file in listing.files_below(path) if not _is_part(file) or file.stat().st_size]
    named = [file for file in files if _kind_by_name(file) is not None or _is_part(file)]
    by_kind: dict[FileKind, list[Path]] = {}
    for file in named or files:
        by_kind.setdefault(file_kind(file), []).append(file)
    return by_kind


def _is_part(file: Path | os.DirEntry[str]) -> bool:
    return file.name.startswith(_PART_PREFIX)


def is_part_folder(path: Path) -> bool:
    """Whether a folder holds one text in parts, as Spark writes it: every visible file is named `part-...`.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_dir():
        return False
    entries = listing.entries(path)
    return bool(entries) and all(entry.is_file() and _is_part(entry) for entry in entries)


def part_names(path: Path) -> list[str]:
    """Names of the parts with content, in order, in a folder for which `is_part_folder` is true.

    Raises:
        OSError: it cannot be read.
        DataError: Spark has not finished it, or there is nothing in it.
    """
    if (path / "_temporary").exists():
        raise DataError(f"{path}: Spark has not finished writing it (it contains _temporary); run again when it is complete")
    names = [entry.name for entry in listing.entries(path) if entry.stat().st_size]
    if not names:
        raise DataError(f"{path}: contains no rows: all its files are empty")
    return names
