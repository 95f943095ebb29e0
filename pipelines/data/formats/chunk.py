"""Parsed rows of a source: images and labels, and what is wrong with the malformed rows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fault:
    """Why a line is malformed."""

    reason: str
    """Category under which faults are counted, such as `label_unknown`."""
    text: str
    """Message: one line of ASCII that shows what was found and names the rule."""


@dataclass(frozen=True)
class BadLine:
    """A malformed line."""

    number: int
    """Zero-based, counted from the start of the text."""
    raw: bytes
    """Without its newline."""
    fault: Fault


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive lines, parsed."""

    num_lines: int
    """Lines of text, including blank and malformed ones."""
    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    """(rows, values); uint8 if every value of the chunk is an integer from 0 to 255, otherwise float32."""
    labels: npt.NDArray[np.int32]
    """(rows,): class index, the position of the label in `Rules.labels`, or -1 (`Rules.any_label`)."""
    lines: npt.NDArray[np.int64]
    """(rows,): zero-based line number of each row."""
    bad_lines: tuple[BadLine, ...]
    """All malformed lines, in order."""
