"""Parser of many lines of libsvm text with decimal numbers at once, some ten times as fast as line by line.

It takes what most programs write: numbers with signs, points and exponents, single spaces, colons. All other lines, and the
malformed ones, are left to `parse_line`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.config.data import MAX_VALUE
from pipelines.data.formats.libsvm_line import Rules

_Targets = npt.NDArray[np.int64] | npt.NDArray[np.float64]
_SPACE, _COLON, _NEWLINE = b" :\n"
_TAKEN = np.isin(np.arange(256), list(b"0123456789+-.eE :\n"))


@dataclass(frozen=True)
class Decimals:
    """The lines that were parsed."""

    lines: npt.NDArray[np.int64]
    """Positions among the given lines, ascending."""
    targets: _Targets
    """By line: class index [lines], or for regression the only target [lines, 1]."""
    line_of_pair: npt.NDArray[np.int64]
    """Position in `lines`."""
    positions: npt.NDArray[np.int64]
    """Zero-based positions among the values of a row."""
    values: npt.NDArray[np.float64]


def read(lines: Sequence[bytes], rules: Rules) -> Decimals:
    """Parse lines without their newlines, those that it can."""
    tokens = _tokens(lines)
    line_of_token = np.cumsum(tokens.kinds == _NEWLINE) - (tokens.kinds == _NEWLINE)
    before = np.concatenate(([_NEWLINE], tokens.kinds[:-1])) if len(tokens.kinds) else tokens.kinds
    # Exactly the tokens after a space are indices, and exactly these end in a colon.
    is_index = tokens.kinds == _COLON
    well_formed = (tokens.ends > tokens.starts) & (is_index == (before == _SPACE))
    good = np.ones(len(lines), np.bool_)
    good[line_of_token[~well_formed]] = False
    good[np.searchsorted(tokens.ends[tokens.kinds == _NEWLINE], np.flatnonzero(~_TAKEN[tokens.text]))] = False
    chosen = good[line_of_token]
    try:
        indices = _numbers(tokens, chosen & is_index, pa.int64())
        numbers = _numbers(tokens, chosen & ~is_index, pa.float64())
    except pa.ArrowInvalid:
        chosen &= False
        good &= False
        indices, numbers = np.empty(0, np.int64), np.empty(0, np.float64)
    is_first = (before == _NEWLINE)[chosen & ~is_index]
    return _checked(good, line_of_token[chosen & is_index], indices, numbers[is_first], numbers[~is_first], rules)


@dataclass(frozen=True)
class _Tokens:
    """Tokens of text, each of which ends in a space, a colon or a newline."""

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    """What ends a token."""


def _tokens(lines: Sequence[bytes]) -> _Tokens:
    text = np.frombuffer(b"".join(line.rstrip(b" \r") + b"\n" for line in lines), np.uint8)
    ends = np.flatnonzero((text == _SPACE) | (text == _COLON) | (text == _NEWLINE))
    return _Tokens(text, np.concatenate(([0], ends[:-1] + 1))[: len(ends)], ends, text[ends])


def _checked(
    good: npt.NDArray[np.bool_],
    line_of_pair: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    firsts: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    rules: Rules,
) -> Decimals:
    """Without the lines that break a rule."""
    targets, known = _targets(firsts, rules)
    (lines,) = np.nonzero(good)
    good[lines[~known]] = False
    low, high = rules.value_range
    allowed = (indices >= rules.first_index) & (indices <= rules.last_index) & (values >= low) & (values <= high)
    allowed[1:] &= (indices[1:] > indices[:-1]) | (line_of_pair[1:] != line_of_pair[:-1])
    good[line_of_pair[~allowed]] = False
    kept, pairs = good[lines], good[line_of_pair]
    positions = np.cumsum(good) - 1
    return Decimals(lines[kept], targets[kept], positions[line_of_pair[pairs]], indices[pairs] - rules.first_index, values[pairs])


def _targets(numbers: npt.NDArray[np.float64], rules: Rules) -> tuple[_Targets, npt.NDArray[np.bool_]]:
    """Class index of each number, or itself for regression [lines, 1], and whether it is allowed there."""
    if rules.num_targets:
        return numbers[:, None], (np.abs(numbers) <= MAX_VALUE) & (rules.num_targets == 1)
    order = np.argsort(rules.labels)
    ascending = np.asarray(rules.labels, np.float64)[order]
    nearest = np.minimum(np.searchsorted(ascending, numbers), len(ascending) - 1)
    return order[nearest], ascending[nearest] == numbers


def _numbers(tokens: _Tokens, chosen: npt.NDArray[np.bool_], kind: pa.DataType) -> npt.NDArray[Any]:
    """The chosen tokens as numbers. Raises pa.ArrowInvalid if one is none."""
    edges = np.zeros(len(tokens.text) + 1, np.int8)
    edges[tokens.starts[chosen]] = 1
    edges[tokens.ends[chosen]] = -1
    content = tokens.text[np.cumsum(edges[:-1], dtype=np.int8) > 0]
    offsets = np.concatenate(([0], np.cumsum((tokens.ends - tokens.starts)[chosen]))).astype(np.int32)
    texts = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(content))
    numbers: npt.NDArray[Any] = texts.cast(kind).to_numpy(zero_copy_only=False)
    return numbers
