"""Parsed rows of a source: inputs, targets and weights, and what is wrong with the malformed rows."""

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
    file: str = ""
    """The file that it is from, if the source is a table whose files have no numbers of their own."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive lines, parsed."""

    num_lines: int
    """Lines of text, including blank and malformed ones."""
    inputs: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    """(rows, values); uint8 if every value of the chunk is an integer from 0 to 255, otherwise float32."""
    targets: npt.NDArray[np.int32] | npt.NDArray[np.float32]
    """int32 (rows,): class index, the position of the label in `Rules.labels`, or -1 (`Rules.any_label`); or float32 (rows,
    targets): the numbers that a regression predicts."""
    lines: npt.NDArray[np.int64]
    """(rows,): zero-based line number of each row."""
    bad_lines: tuple[BadLine, ...]
    """All malformed lines, in order."""
    weights: npt.NDArray[np.float32] | None = None
    """(rows,): finite and not negative; None if all rows count the same."""
