"""The lines of a journal's files, and what they say."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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


def read_entries(path: Path) -> Iterator[Entry]:
    for line in _lines(path):
        with contextlib.suppress(TypeError):
            yield Entry(**line)


def read_accepted(path: Path) -> Accepted:
    accepted = Accepted()
    for mark in _lines(path):
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


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The valid lines of a file; incomplete ones are skipped."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
