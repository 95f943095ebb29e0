"""Log files of a run: lines with time, process and epoch, and one log merged from those of the driver and the ranks.

Each process writes its own file, because appending to one file from several nodes is not safe on shared file systems.
"""

import contextlib
import heapq
import logging
import logging.config
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pipelines.config import LogLevel
from pipelines.system import atomic
from pipelines.system.secrets import mask, masker

_FORMAT = "%(asctime)s.%(msecs)03dZ %(who)s %(levelname)s %(name)s: %(message)s"
_STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")
# Of a longer file only the end is merged, where errors are.
_MERGED_BYTES = 2_000_000
# They log their own workings.
_VERBOSE_LIBRARIES = ("petastorm", "py4j", "matplotlib", "alembic", "urllib3", "git", "h5py", "tensorflow", "absl", "asyncio")

_epoch = 0
_configure_by_file = logging.config.fileConfig
# Number of threads in `kept`.
_keepers = 0
_keeping = threading.Lock()


def set_epoch(epoch: int) -> None:
    """Set the epoch that log lines of this process carry from now on; 0 for none."""
    global _epoch
    _epoch = epoch


def configure(stream: TextIO, who: str, level: LogLevel) -> logging.Handler:
    """Send this process's log lines to a stream.

    Args:
        stream: the destination.
        who: `driver` or `rank K`.
        level: lowest level to log.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(_FORMAT, "%Y-%m-%dT%H:%M:%S"))

    def name(record: logging.LogRecord) -> bool:
        record.who = f"{who} epoch {_epoch}" if _epoch else who
        return True

    handler.addFilter(name)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    for library in _VERBOSE_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    return handler


def silence_mlflow() -> None:
    """Keep store migrations and version hints off the console. Call it after the import of MLflow, which sets its own level."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Protect the logging configuration in the block: MLflow 2 replaces it when it sets up a store."""
    global _keepers
    with _keeping:
        _keepers += 1
        logging.config.fileConfig = _configure_nothing
    try:
        yield
    finally:
        with _keeping:
            _keepers -= 1
            if _keepers == 0:
                logging.config.fileConfig = _configure_by_file


def _configure_nothing(*_: object, **__: object) -> None:
    return


class _Formatter(logging.Formatter):
    # Nodes may be in different time zones.
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def merge(folder: Path, target: Path) -> None:
    """Write the lines of all `*.log` files below `folder` to `target`, sorted by time.

    Lines without a time, such as those of a traceback, stay after the line they follow and are prefixed with their file's name.
    Lines are masked again, since a rank's file also has what its code printed.
    """
    files = [path for path in sorted(folder.rglob("*.log")) if path != target]
    mask_line = masker()
    with open(target, "w", encoding="utf-8", opener=atomic.owner_only) as merged:
        for _, _, line in heapq.merge(*(_stamped_lines(path, number) for number, path in enumerate(files))):
            merged.write(mask_line(line) + "\n")


class LogTail:
    """Reads what is appended to the log files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    def new_lines(self, pattern: str = "*.log") -> list[str]:
        """Lines added since the last call."""
        lines: list[str] = []
        for path in sorted(self._folder.glob(pattern)):
            try:
                with path.open("rb") as file:
                    file.seek(self._offsets.get(path, 0))
                    added = file.read()
            except FileNotFoundError:
                # It is being replaced (`pipelines.system.atomic`).
                continue
            # An unterminated line is still being written.
            complete = added.rfind(b"\n") + 1
            self._offsets[path] = self._offsets.get(path, 0) + complete
            for line in added[:complete].decode(errors="replace").splitlines():
                lines.append(line if _STAMPED.match(line) else f"    {path.stem}| {line}")
        return lines


def _stamped_lines(path: Path, number: int) -> Iterator[tuple[str, int, str]]:
    """Time to sort by, number of the file, and line."""
    # Before the first timestamp, such as output of a library while it is loaded.
    stamp = ""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size > _MERGED_BYTES:
            file.seek(size - _MERGED_BYTES)
            file.readline()
            yield stamp, number, f"    {path.stem}| the first {file.tell():,} bytes of {path} are omitted"
        for raw in file:
            line = raw.decode(errors="replace").rstrip("\r\n")
            if _STAMPED.match(line):
                # Clocks can be set back; the order within a file is kept.
                stamp = max(stamp, line[:24])
                yield stamp, number, line
            elif line:
                yield stamp, number, f"    {path.stem}| {line}"
