"""Temporary folders of this process, which are gone when it has ended.

Python's own exit functions do not run where a job leaves by `os._exit` (`pipelines.cli`), which therefore calls `remove`.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

_folders: list[Path] = []


def folder(prefix: str) -> Path:
    """A new folder, for this user alone, in the system's temporary folder."""
    new = Path(tempfile.mkdtemp(prefix=prefix))
    _folders.append(new)
    return new


@atexit.register
def remove() -> None:
    """Remove what `folder` made. Raises nothing."""
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)
