"""Log lines: when, who, at which epoch; and one file of a whole run, merged from those of the driver and the ranks.

Each process writes a file of its own, because appending to one file from several nodes is not safe on shared file systems.
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
# Of a file longer than this the end is kept: it is where trouble shows.
_MERGED_BYTES = 2_000_000
# They tell how they work, not what the job does.
_TALKATIVE = ("petastorm", "py4j", "matplotlib", "alembic", "urllib3", "git", "h5py", "tensorflow", "absl", "asyncio")

_epoch = 0
_configure_by_file = logging.config.fileConfig
# Threads that are within `kept`.
_keepers = 0
_keeping = threading.Lock()


def set_epoch(epoch: int) -> None:
    """From now on lines of this process carry this epoch; 0 for none."""
    global _epoch
    _epoch = epoch


def configure(stream: TextIO, who: str, level: LogLevel) -> logging.Handler:
    """Send this process's log lines to a stream.

    Args:
        stream: where to.
        who: driver, or rank K.
        level: the least important level that is kept.
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
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)
    return handler


def silence_mlflow() -> None:
    """Keep the set-up of a new store, and hints for other versions, off the console. MLflow sets its level when imported."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within, nothing configures logging anew. MLflow 2 does when it sets up a store: lines would go to the console alone."""
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
    # Nodes may stand in different time zones.
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def merge(folder: Path, target: Path) -> None:
    """Write the lines of all `*.log` files below `folder` to `target`, by time.

    Lines without a time, such as those of a traceback, stay behind the line they follow and name their file. What the code of a
    rank printed is masked by now.
    """
    files = [path for path in sorted(folder.rglob("*.log")) if path != target]
    mask_line = masker()
    with open(target, "w", encoding="utf-8", opener=atomic.owner_only) as merged:
        for _, _, line in heapq.merge(*(_stamped_lines(path, number) for number, path in enumerate(files))):
            merged.write(mask_line(line) + "\n")


class LogTail:
    """Reads the lines that were added to the log files of a folder since the last call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    def new_lines(self, pattern: str = "*.log") -> list[str]:
        lines: list[str] = []
        for path in sorted(self._folder.glob(pattern)):
            try:
                with path.open("rb") as file:
                    file.seek(self._offsets.get(path, 0))
                    added = file.read()
            except FileNotFoundError:
                # Between two copies of it (`pipelines.system.atomic`).
                continue
            # A line without its end is still being written.
            complete = added.rfind(b"\n") + 1
            self._offsets[path] = self._offsets.get(path, 0) + complete
            for line in added[:complete].decode(errors="replace").splitlines():
                lines.append(line if _STAMPED.match(line) else f"    {path.stem}| {line}")
        return lines


def _stamped_lines(path: Path, number: int) -> Iterator[tuple[str, int, str]]:
    """Time to sort by, the file's number, and the line."""
    # Before the first stamp, for example where a library speaks while it is loaded.
    stamp = ""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size > _MERGED_BYTES:
            file.seek(size - _MERGED_BYTES)
            file.readline()
            yield stamp, number, f"    {path.stem}| the first {file.tell():,} bytes of {path} are left out here"
        for raw in file:
            line = raw.decode(errors="replace").rstrip("\r\n")
            if _STAMPED.match(line):
                # Clocks can be set back; within a file the order is that of the file.
                stamp = max(stamp, line[:24])
                yield stamp, number, line
            elif line:
                yield stamp, number, f"    {path.stem}| {line}"
