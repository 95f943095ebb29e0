"""Files that grow, such as logs and spools, in a run folder whose file system takes no appends.

Mounts of object stores, as Databricks' `/dbfs` and `/Volumes` are, take whole files only. There a process appends to a stand-in
on a local disk, and a thread copies each stand-in that has changed to the run folder, as a whole, about once a second and once
more at the end. Readers take what lies behind the place they have come to, so to them such a file grows like any other. A process
that is killed loses what it wrote since the last copy. For a rank its supervisor copies, so a rank that is killed loses nothing.

Where appends work, a stand-in is the file itself, and there is no thread.
"""

import atexit
import contextlib
import errno
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psutil

from pipelines.system import atomic

Takes = Literal["appends", "whole files", "nothing"]

_PREFIX = "convoy-stage-"
_PAUSE_SECONDS = 1.0
# Of its time a process copies at most a twentieth: a long log is copied less often.
_SHARE = 20


def probe(folder: Path) -> Takes:
    """Find out, by trying, what the file system of a folder takes."""
    path = folder / f".append-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    try:
        path.write_bytes(b".")
    except OSError:
        return "nothing"
    try:
        with path.open("ab") as file:
            file.write(b".")
        return "appends" if path.stat().st_size == 2 else "whole files"
    except OSError as error:
        # A disk that has just become full says nothing about appends.
        return "nothing" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "whole files"
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


class Stage:
    """The growing files of one run folder, as one process writes them. Safe to use from several threads.

    Args:
        run_dir: the run folder.
        folder: for the stand-ins; None where appends work.
        publishes: False leaves the copying to another process.
    """

    def __init__(self, run_dir: Path, folder: Path | None, publishes: bool = True) -> None:
        self.run_dir = run_dir.absolute()
        self.folder = folder
        self._publishes = publishes and folder is not None
        self._published: dict[Path, tuple[int, int]] = {}
        self._making, self._copying = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def file(self, path: Path) -> Path:
        """Where to append to a file of the run folder. Of one that is there the stand-in begins with its content.

        Raises:
            OSError: the local disk takes no stand-in, or what is there cannot be read.
        """
        if self.folder is None:
            return path
        local = self.standing_in(path)
        with self._making:
            if not local.exists() and path.exists():
                atomic.copy(path, local)
                self._published[local] = _version(local)
            local.parent.mkdir(parents=True, exist_ok=True)
            if self._publishes and self._thread is None:
                self._thread = threading.Thread(target=self._publish_now_and_then, name="publisher", daemon=True)
                self._thread.start()
        return local

    def standing_in(self, path: Path) -> Path:
        """The name of the stand-in of a file, whether there is one or not."""
        return path if self.folder is None else self.folder / path.absolute().relative_to(self.run_dir)

    @contextmanager
    def whole_folder(self, path: Path) -> Iterator[Path]:
        """Gives where to write the files of a folder of the run folder, in any order of bytes; at the end they lie in `path`."""
        if self.folder is None:
            yield path
            return
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as place:
            yield Path(place) / path.name
            atomic.copy_folder(Path(place) / path.name, path)

    def publish(self) -> None:
        """Copy now what has changed. Raises OSError when some of it could not be copied; it is tried again."""
        if not self._publishes or self.folder is None:
            return
        trouble: OSError | None = None
        with self._copying:
            for local in sorted(self.folder.rglob("*")):
                # Locks are links, and what is not finished is hidden.
                if local.name.startswith(".") or local.is_symlink() or not local.is_file():
                    continue
                version = _version(local)
                if self._published.get(local) == version:
                    continue
                try:
                    atomic.copy(local, self.run_dir / local.relative_to(self.folder))
                    self._published[local] = version
                except OSError as error:
                    trouble = trouble or error
        if trouble is not None:
            raise trouble

    def close(self) -> None:
        """Copy what is left and remove the stand-ins. Raises OSError when some of it could not be copied; then they stay."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self.publish()
        if self._publishes and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            _remove_stale()

    def _publish_now_and_then(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._closing.wait(pause):
            started = time.monotonic()
            with contextlib.suppress(OSError):
                self.publish()
            pause = max(_PAUSE_SECONDS, _SHARE * (time.monotonic() - started))


def _version(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def new_stage(run_dir: Path) -> Stage:
    """A stage for what this process writes to a run folder, which is there. The file system is tried out."""
    if probe(run_dir) != "whole files":
        return Stage(run_dir, None)
    _remove_stale()
    return Stage(run_dir, Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")))


@contextmanager
def staged(run_dir: Path) -> Iterator[Stage]:
    """A stage for the time of a block. Raises OSError at its end when something could not be copied."""
    stage = new_stage(run_dir)
    try:
        yield stage
    finally:
        stage.close()


# The stages of this process, by run folder.
_stages: dict[Path, Stage] = {}
_opening = threading.Lock()


def of(run_dir: Path) -> Stage:
    """The stage of this process for a run folder, made when it is first asked for."""
    run_dir = run_dir.absolute()
    with _opening:
        if run_dir not in _stages:
            _stages[run_dir] = new_stage(run_dir)
        return _stages[run_dir]


def latest(run_dir: Path, path: Path) -> Path:
    """Where to read a file of a run folder that this process may be appending to."""
    stage = _stages.get(run_dir.absolute())
    local = stage.standing_in(path) if stage is not None else path
    return local if local.exists() else path


def adopt(run_dir: Path, folder: str) -> None:
    """Have this process append to stand-ins that another one copies; `folder` is empty where appends work."""
    _stages[run_dir.absolute()] = Stage(run_dir, Path(folder) if folder else None, publishes=False)


def close(run_dir: Path) -> None:
    """Copy what is left of a run folder's files. Raises OSError when some of it could not be copied."""
    with _opening:
        stage = _stages.pop(run_dir.absolute(), None)
    if stage is not None:
        stage.close()


@atexit.register
def _close_all() -> None:
    for run_dir in list(_stages):
        with contextlib.suppress(OSError):
            close(run_dir)


def _remove_stale() -> None:
    """Remove the stand-ins of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
