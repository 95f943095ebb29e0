"""Temporary folders of ranks, for files such as the code that TensorFlow generates.

A rank may be killed, so others remove its folder: it is in the system's temporary folder, with a name derived from the run
folder. A supervisor removes its rank's folder; the driver removes those of a run on its machine, and those of orphaned runs.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path


def make(work_dir: Path, rank: int) -> Path:
    """Create the folder of a rank, which no other user can access.

    Raises:
        OSError: it cannot be created, or belongs to another user.
    """
    root = _root(work_dir)
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    if status.st_uid != os.geteuid() or root.is_symlink():
        raise PermissionError(13, "belongs to another user", str(root))
    folder = root / f"rank-{rank}"
    folder.mkdir(exist_ok=True)
    return folder


def remove(work_dir: Path, rank: int | None = None) -> None:
    """Remove the folder of one rank, or of all ranks. Raises nothing."""
    root = _root(work_dir)
    shutil.rmtree(root if rank is None else root / f"rank-{rank}", ignore_errors=True)
    try:
        root.rmdir()
    except OSError:
        # Other ranks are still running, or it is already removed.
        return


def _root(work_dir: Path) -> Path:
    name = hashlib.sha256(str(work_dir.absolute()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"convoy-{name}"
