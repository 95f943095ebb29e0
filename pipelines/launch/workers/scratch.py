"""Where ranks keep temporary files, such as the code that TensorFlow generates. A rank may be killed, so others know the place.

It lies in the system's temporary folder, named after the run folder. A supervisor removes its rank's part; the driver removes the
whole where it runs, and that of a driver that died when it finds its run.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path


def make(work_dir: Path, rank: int) -> Path:
    """The folder of one rank, which nobody else may enter.

    Raises:
        OSError: it cannot be created, or is somebody else's.
    """
    whole = _whole(work_dir)
    whole.mkdir(mode=0o700, exist_ok=True)
    found = whole.lstat()
    if found.st_uid != os.geteuid() or whole.is_symlink():
        raise PermissionError(13, "belongs to somebody else", str(whole))
    folder = whole / f"rank-{rank}"
    folder.mkdir(exist_ok=True)
    return folder


def remove(work_dir: Path, rank: int | None = None) -> None:
    """Remove the folder of one rank, or of all. Raises nothing."""
    whole = _whole(work_dir)
    shutil.rmtree(whole if rank is None else whole / f"rank-{rank}", ignore_errors=True)
    try:
        whole.rmdir()
    except OSError:
        # Other ranks are still at work, or it is gone.
        return


def _whole(work_dir: Path) -> Path:
    name = hashlib.sha256(str(work_dir.absolute()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"convoy-{name}"
