"""The lines of a journal's files, and what they say."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import DataError
from pipelines.system import checked_lines

Action = Literal["open", "params", "tags", "metrics", "inputs", "artifact", "model", "status"]


@dataclass(frozen=True)
class Entry:
    """One action."""

    n: int
    """Number of the entry, from 1."""
    action: Action
    time: int
    """Milliseconds since the Unix epoch."""
    values: dict[str, Any]


@dataclass
class Accepted:
    """What a tracking server has."""

    tracking_uri: str = ""
    """Without credentials."""
    run_id: str = ""
    model_uri: str = ""
    entries: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    """Entries with a value that the server rejected, and why."""


def read_entries(path: Path, damaged: list[str]) -> Iterator[Entry]:
    """The entries of a file. What is wrong with a damaged line, which is left out, is appended to `damaged`."""
    for number, line in _lines(path, damaged):
        try:
            yield Entry(**line)
        except TypeError:
            damaged.append(f"{path}: line {number} is no entry")


def read_accepted(path: Path, damaged: list[str]) -> Accepted:
    """What the lines of a file say, damaged ones as in `read_entries`. What such a line had accepted is sent again."""
    accepted = Accepted()
    for _, mark in _lines(path, damaged):
        if "run_id" in mark:
            accepted = Accepted(mark["tracking_uri"], mark["run_id"])
        elif "accepted" in mark:
            accepted.entries |= set(mark["accepted"])
            accepted.refused = {number: why for number, why in accepted.refused.items() if number not in accepted.entries}
            accepted.model_uri = mark.get("model_uri", accepted.model_uri)
        elif "lost" in mark:
            accepted.entries -= set(mark["lost"])
        elif "refused" in mark:
            accepted.refused[mark["refused"]] = mark["why"]
    return accepted


def _lines(path: Path, damaged: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The valid lines of a file, numbered from 1; incomplete ones are skipped."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            values = checked_lines.decode(line)
        except DataError as error:
            damaged.append(f"{path}: line {number} {error}")
            continue
        if values is not None:
            yield number, values


def is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
