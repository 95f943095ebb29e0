"""Temporary folders of ranks, for files such as the code that TensorFlow generates.

A rank may be killed, so others remove its folder: it is in the system's temporary folder, with a name derived from the run
folder. A supervisor removes its rank's folder; the driver removes those of a run on its machine, and those of orphaned runs.
"""

import contextlib
import hashlib
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

# Each can fail because another rank's supervisor removes the empty folder of the run at that moment.
_TRIES = 100


def make(work_dir: Path, rank: int, attempt: str) -> Path:
    """Create the folder of a rank, which no other user can access.

    Args:
        work_dir: the run folder.
        rank: number of the rank.
        attempt: name of the attempt's folder. A supervisor of an earlier attempt may still be removing its rank's folder.

    Raises:
        OSError: it cannot be created, or belongs to another user.
    """
    root = _root(work_dir)
    folder = root / f"rank-{rank}-{attempt}"
    for tries_left in reversed(range(_TRIES)):
        try:
            with contextlib.suppress(FileExistsError):
                root.mkdir(mode=0o700)
            status = root.lstat()
            if status.st_uid != os.geteuid() or root.is_symlink():
                raise PermissionError(13, "belongs to another user", str(root))
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            break
        except FileNotFoundError:
            if not tries_left:
                raise
            # Out of step with the other.
            time.sleep(random.uniform(0, 0.001))
    return folder


def remove(work_dir: Path, rank: int | None = None, attempt: str = "") -> None:
    """Remove the folder of one rank, with those that its killed predecessors have left, or of all ranks. Raises nothing."""
    root = _root(work_dir)
    # A later attempt may have begun.
    folders = [root] if rank is None else [path for path in root.glob(f"rank-{rank}-*") if path.name <= f"rank-{rank}-{attempt}"]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        root.rmdir()
    except OSError:
        # Other ranks are still running, or it is already removed.
        return


def _root(work_dir: Path) -> Path:
    name = hashlib.sha256(str(work_dir.absolute()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"convoy-{name}"
