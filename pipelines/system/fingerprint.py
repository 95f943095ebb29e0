"""SHA-256 of files and of plain data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Fingerprint:
    """Size and SHA-256 (hexadecimal) of a file's content."""

    num_bytes: int
    sha256: str


def fingerprint(path: Path) -> Fingerprint:
    """Raises OSError when the file cannot be read."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            num_bytes += len(piece)
    return Fingerprint(num_bytes, digest.hexdigest())


def json_sha256(values: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of JSON-like data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
