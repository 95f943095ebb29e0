"""Files that grow, such as logs and spools, in a run folder whose file system does not support appends.

Object-store mounts, such as Databricks' `/dbfs` and `/Volumes`, accept whole files only. There a process appends to a staging
file on a local disk, and a thread copies each changed staging file to the run folder, as a whole, about once a second and once
more at the end. Readers read from their last offset on, so to them the file grows like any other. A killed process loses what it
wrote since the last copy. A rank's files are copied by its supervisor, so a killed rank loses nothing.

Where appends work, the staging file is the file itself, and there is no thread.
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
# A process spends at most a twentieth of its time copying: a long log is copied less often.
_SHARE = 20


def probe(folder: Path) -> Takes:
    """Find out, by trying, what the file system of a folder supports."""
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
        # A disk that has just filled up says nothing about appends.
        return "nothing" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "whole files"
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


class Stage:
    """The growing files of one run folder, as one process writes them. Safe to use from several threads.

    Args:
        run_dir: the run folder.
        folder: where the staging files are; None if appends work.
        publishes: False if another process copies them.
    """

    def __init__(self, run_dir: Path, folder: Path | None, publishes: bool = True) -> None:
        self.run_dir = run_dir.absolute()
        self.folder = folder
        self._publishes = publishes and folder is not None
        self._published: dict[Path, tuple[int, int]] = {}
        self._creating, self._copying = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def file(self, path: Path) -> Path:
        """Where to append to a file of the run folder. The staging file of an existing file begins with its content.

        Raises:
            OSError: the staging file cannot be written, or the existing file cannot be read.
        """
        if self.folder is None:
            return path
        local = self.staging_path(path)
        with self._creating:
            if not local.exists() and path.exists():
                atomic.copy(path, local)
                self._published[local] = _version(local)
            local.parent.mkdir(parents=True, exist_ok=True)
            if self._publishes and self._thread is None:
                self._thread = threading.Thread(target=self._publish_periodically, name="publisher", daemon=True)
                self._thread.start()
        return local

    def staging_path(self, path: Path) -> Path:
        """Path of the staging file of a file, whether or not it exists."""
        return path if self.folder is None else self.folder / path.absolute().relative_to(self.run_dir)

    @contextmanager
    def staged_folder(self, path: Path) -> Iterator[Path]:
        """Yield a folder where files can be written with seeks; at the end they are in `path`, a folder of the run folder."""
        if self.folder is None:
            yield path
            return
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as scratch:
            yield Path(scratch) / path.name
            atomic.copy_folder(Path(scratch) / path.name, path)

    def publish(self) -> None:
        """Copy changed files now. Raises OSError if any could not be copied; the next call tries again."""
        if not self._publishes or self.folder is None:
            return
        failure: OSError | None = None
        with self._copying:
            for local in sorted(self.folder.rglob("*")):
                # Locks are links, and unfinished files are hidden.
                if local.name.startswith(".") or local.is_symlink() or not local.is_file():
                    continue
                version = _version(local)
                if self._published.get(local) == version:
                    continue
                try:
                    atomic.copy(local, self.run_dir / local.relative_to(self.folder))
                    self._published[local] = version
                except OSError as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Copy what is left and remove the staging files. Raises OSError if any could not be copied; then they stay."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self.publish()
        if self._publishes and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            _remove_stale()

    def _publish_periodically(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._closing.wait(pause):
            started = time.monotonic()
            with contextlib.suppress(OSError):
                self.publish()
            pause = max(_PAUSE_SECONDS, _SHARE * (time.monotonic() - started))


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def new_stage(run_dir: Path) -> Stage:
    """A stage for what this process writes to an existing run folder. Probes its file system."""
    if probe(run_dir) != "whole files":
        return Stage(run_dir, None)
    _remove_stale()
    return Stage(run_dir, Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")))


@contextmanager
def staged(run_dir: Path) -> Iterator[Stage]:
    """A stage for the duration of a block. Raises OSError at the end if a file could not be copied."""
    stage = new_stage(run_dir)
    try:
        yield stage
    finally:
        stage.close()


# The stages of this process, by run folder.
_stages: dict[Path, Stage] = {}
_opening = threading.Lock()


def stage_of(run_dir: Path) -> Stage:
    """This process's stage for a run folder, created on first use."""
    run_dir = run_dir.absolute()
    with _opening:
        if run_dir not in _stages:
            _stages[run_dir] = new_stage(run_dir)
        return _stages[run_dir]


def latest(run_dir: Path, path: Path) -> Path:
    """Path to read a file of a run folder from, which this process may be appending to."""
    stage = _stages.get(run_dir.absolute())
    local = stage.staging_path(path) if stage is not None else path
    return local if local.exists() else path


def adopt(run_dir: Path, folder: str) -> None:
    """Use staging files in `folder`, which another process copies; empty if appends work."""
    _stages[run_dir.absolute()] = Stage(run_dir, Path(folder) if folder else None, publishes=False)


def close(run_dir: Path) -> None:
    """Close this process's stage for a run folder. Raises OSError if a file could not be copied."""
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
    """Remove the staging files of killed processes."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
