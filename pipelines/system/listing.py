"""Which files of a folder are data: one rule for all readers, that of Spark. A file that is named itself is always read."""

import glob
import os
from pathlib import Path

from pipelines.errors import DataError
from pipelines.system.path_rules import is_hidden, printable


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Visible files and folders in a folder, sorted by name.

    Raises:
        OSError: the folder cannot be read.
        DataError: a symbolic link in it leads nowhere.
    """
    with os.scandir(folder) as scan:
        found = sorted((entry for entry in scan if not is_hidden(entry.name)), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise DataError(f"{printable(entry.path)}: is a symbolic link that leads nowhere or to itself; remove or mend it")
    return found


def matching(path: Path) -> list[Path]:
    """Visible files and folders that match a pattern with `*`, `?` or `[...]`, sorted; none if the path exists as it is."""
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return []
    return sorted(Path(found) for found in glob.glob(str(path)) if not is_hidden(os.path.basename(found)))


def files_below(folder: Path) -> list[Path]:
    """Visible files in a folder and its visible sub-folders, in the order of their paths. Symbolic links are followed.

    Raises:
        OSError: a folder cannot be read.
        DataError: a symbolic link leads nowhere, or to a folder that contains it.
    """
    return _files_below(folder, ())


def _files_below(folder: Path, outer: tuple[tuple[int, int], ...]) -> list[Path]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in outer:
        raise DataError(f"{printable(str(folder))}: is a symbolic link to a folder that contains it; remove the link")
    files: list[Path] = []
    for entry in entries(folder):
        if entry.is_dir():
            files += _files_below(Path(entry.path), (*outer, identity))
        elif entry.is_file():
            files.append(Path(entry.path))
    return files
