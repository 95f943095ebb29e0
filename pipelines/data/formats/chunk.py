"""Some rows of a source, read: images and labels, and what is wrong with the rest."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fault:
    """Why a line is no row."""

    reason: str
    """One word, such as `label_unknown`, that faults are counted by."""
    text: str
    """For people: one line of ASCII that shows what was found and names the rule."""


@dataclass(frozen=True)
class BadLine:
    """A line that is neither a row nor empty."""

    number: int
    """Zero-based, counted from the start of the text."""
    raw: bytes
    """As it stands, without its newline."""
    fault: Fault


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some consecutive lines, read."""

    num_lines: int
    """Lines of text, blank and malformed ones included."""
    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    """(rows, values); uint8 where every value of the chunk is a whole number from 0 to 255, else float32."""
    labels: npt.NDArray[np.int32]
    """(rows,): position of the label in `Rules.labels`."""
    lines: npt.NDArray[np.int64]
    """(rows,): zero-based line of each row."""
    bad_lines: tuple[BadLine, ...]
    """Every malformed line, in order."""
