"""Temporary folders that are removed when this process exits.

`atexit` functions do not run when a job exits by `os._exit` (`pipelines.cli`), which therefore calls `remove`.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

_folders: list[Path] = []


def folder(prefix: str) -> Path:
    """Create a folder, private to this user, in the system's temporary folder."""
    new = Path(tempfile.mkdtemp(prefix=prefix))
    _folders.append(new)
    return new


@atexit.register
def remove() -> None:
    """Remove the folders created by `folder`. Raises nothing."""
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)
