"""The record of a sweep: Optuna's journal in a file of lines with checksums (`pipelines.system.checked_lines`).

Optuna's own file of the same content has none, so a changed bit would pass for another learning rate or accuracy.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import DataError, LaunchError
from pipelines.system import checked_lines


class SweepRecord:
    """What Optuna has recorded, for one driver at a time; a backend of its `JournalStorage`.

    A line that a killed driver left incomplete at the end is removed.

    Args:
        path: the file, which may not exist yet.

    Raises:
        OSError: it cannot be read or written.
        LaunchError: a line is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[dict[str, Any]] = []
        content = path.read_bytes() if path.exists() else b""
        self._size = content.rfind(b"\n") + 1
        for number, line in enumerate(content[: self._size].splitlines(), 1):
            self._entries.append(_decoded(line, f"{path}: line {number}"))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from a number on, counted from 0."""
        yield from self._entries[log_number_from:]

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Append entries. When this returns, they are on disk."""
        lines = [checked_lines.encode(entry) for entry in logs]
        with self._path.open("ab") as file:
            # A full disk may have taken a part of a line.
            file.truncate(self._size)
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self._size += sum(map(len, lines))
        self._entries += [_decoded(line, str(self._path)) for line in lines]


def _decoded(line: bytes, place: str) -> dict[str, Any]:
    try:
        entry = checked_lines.decode(line.rstrip(b"\n"))
    except DataError as error:
        raise LaunchError(f"{place} {error}; restore the file from a copy, or start a new sweep") from error
    if entry is None:
        raise LaunchError(f"{place} is incomplete; restore the file from a copy, or start a new sweep")
    return entry
