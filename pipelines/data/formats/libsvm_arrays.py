"""Parser of libsvm text with array operations. `pipelines.data.formats.libsvm` states the rules.

It reads plain lines (digits, single spaces, colons) at once and passes all other lines to `libsvm_decimal`, which takes most
lines of decimal numbers, and what is left to `parse_line`, which either parses a line or says what is wrong with it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import libsvm_decimal
from pipelines.data.formats.chunk import BadLine, Chunk, Fault
from pipelines.data.formats.libsvm_line import Row, Rules, parse_line

_SPACE, _COLON, _NEWLINE, _RETURN, _ZERO = 32, 58, 10, 13, 48
# More digits could overflow the int32 of the fast parser.
_MAX_DIGITS = 9


def parse(text: bytes | memoryview, rules: Rules) -> Chunk:
    """Parse lines, each of which ends in a newline, as `libsvm.parse`."""
    plain = _read_plain(np.frombuffer(text, np.uint8), rules)
    num_lines = len(plain.starts)
    rest = np.flatnonzero(~plain.good)
    others = [bytes(text[start:end]) for start, end in zip(plain.starts[rest].tolist(), plain.ends[rest].tolist(), strict=True)]
    decimals = libsvm_decimal.read(others, rules)
    of_decimals = rest[decimals.lines]
    slow_rows: dict[int, Row] = {}
    bad_lines: list[BadLine] = []
    for number in np.setdiff1d(np.arange(len(rest)), decimals.lines, assume_unique=True).tolist():
        line, raw = int(rest[number]), others[number]
        outcome = parse_line(raw, rules)
        if isinstance(outcome, Row):
            slow_rows[line] = outcome
        elif isinstance(outcome, Fault):
            bad_lines.append(BadLine(line, raw, outcome))
    is_row = plain.good.copy()
    is_row[of_decimals] = True
    is_row[list(slow_rows)] = True
    row_of_line = np.cumsum(is_row) - 1
    num_rows = int(is_row.sum())
    whole = (
        (plain.values.size == 0 or int(plain.values.max()) <= 255)
        and bool(((decimals.values >= 0) & (decimals.values <= 255) & (decimals.values == np.floor(decimals.values))).all())
        and all(0 <= value <= 255 and value == int(value) for row in slow_rows.values() for value in row.values)
    )
    images: npt.NDArray[Any] = np.zeros((num_rows, rules.num_values), np.uint8 if whole else np.float32)
    targets = np.empty((num_rows, rules.num_targets), np.float32) if rules.num_targets else np.empty(num_rows, np.int32)
    targets[row_of_line[plain.good]] = plain.targets[plain.good]
    images.reshape(-1)[row_of_line[plain.line_of_pair] * rules.num_values + (plain.indices - rules.first_index)] = plain.values
    targets[row_of_line[of_decimals]] = decimals.targets
    images[row_of_line[of_decimals][decimals.line_of_pair], decimals.positions] = decimals.values
    for line, row in slow_rows.items():
        targets[row_of_line[line]] = row.target
        images[row_of_line[line], row.positions] = row.values
    return Chunk(num_lines=num_lines, inputs=images, targets=targets, lines=np.flatnonzero(is_row), bad_lines=tuple(bad_lines))


@dataclass(frozen=True)
class _Plain:
    """Output of the fast parser. Lines that are not `good` are left to `parse_line`."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    good: npt.NDArray[np.bool_]
    targets: npt.NDArray[np.int64]
    """By line, if it is good: class index [lines], or for regression the only target [lines, 1]."""
    line_of_pair: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    """By pair of a good line, as written in the file."""
    values: npt.NDArray[np.int32]


def _read_plain(text: npt.NDArray[np.uint8], rules: Rules) -> _Plain:
    # Bytes below '0' wrap around, so that one comparison finds all non-digits. These separate the tokens.
    digits = text - np.uint8(_ZERO)
    ends = np.flatnonzero(digits > 9)
    kinds = text[ends]
    starts = np.concatenate(([0], ends[:-1] + 1))
    line_ends = ends[kinds == _NEWLINE]
    line_starts = np.concatenate(([0], line_ends[:-1] + 1))
    # A space or carriage return before a newline ends the line in its place; drop the empty token after it.
    behind = np.flatnonzero(kinds == _NEWLINE)
    before = kinds[behind - 1]
    behind = behind[((before == _SPACE) | (before == _RETURN)) & (ends[behind] == starts[behind])]
    if behind.size:
        kinds[behind - 1] = _NEWLINE
        ends, kinds, starts = np.delete(ends, behind), np.delete(kinds, behind), np.delete(starts, behind)
    lengths = ends - starts
    space, colon, newline = kinds == _SPACE, kinds == _COLON, kinds == _NEWLINE
    # Exactly the tokens after a space are indices, and exactly these end in a colon.
    well_formed = (lengths > 0) & (lengths <= _MAX_DIGITS) & (space | colon | newline)
    well_formed &= colon == np.concatenate(([False], space[:-1]))
    last_token = np.flatnonzero(newline)
    good = np.ones(len(last_token), np.bool_)
    good[np.searchsorted(last_token, np.flatnonzero(~well_formed))] = False
    tokens_per_line = np.diff(last_token, prepend=-1)
    numbers = _numbers(digits, ends, lengths)
    first_token = last_token - tokens_per_line + 1
    targets, known = _targets(numbers[first_token], rules)
    of_pair = np.ones(len(numbers), np.bool_)
    of_pair[first_token] = False
    if not good.all():
        of_pair &= np.repeat(good, tokens_per_line)
    pairs = numbers[of_pair].reshape(-1, 2)
    lines = np.arange(len(good))
    line_of_pair = np.repeat(lines[good], (tokens_per_line[good] - 1) // 2)
    good &= known
    indices, values = pairs[:, 0], pairs[:, 1]
    allowed = (indices >= rules.first_index) & (indices <= rules.last_index)
    allowed &= (values >= rules.value_range[0]) & (values <= rules.value_range[1])
    allowed[1:] &= (indices[1:] > indices[:-1]) | (line_of_pair[1:] != line_of_pair[:-1])
    good[line_of_pair[~allowed]] = False
    if not good.all():
        kept = good[line_of_pair]
        line_of_pair, indices, values = line_of_pair[kept], indices[kept], values[kept]
    return _Plain(line_starts, line_ends, good, targets, line_of_pair, indices, values)


def _numbers(digits: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Values of the tokens; undefined for tokens with no digits or more than `_MAX_DIGITS`."""
    padded = np.zeros(len(digits) + 4, np.uint8)
    padded[4:] = digits
    # Load the four bytes before the end of each token at once (unaligned): the last digit is the highest byte.
    last_four: npt.NDArray[np.uint32] = np.ndarray(len(digits) + 1, "<u4", padded, 0, (1,)).take(ends)
    unused_bits = (4 - np.clip(lengths, 1, 4)).astype(np.uint32) * np.uint32(8)
    last_four >>= unused_bits
    last_four <<= unused_bits
    low_byte = np.uint32(255)
    numbers = last_four >> np.uint32(24)
    numbers += ((last_four >> np.uint32(16)) & low_byte) * np.uint32(10)
    numbers += ((last_four >> np.uint32(8)) & low_byte) * np.uint32(100)
    numbers += (last_four & low_byte) * np.uint32(1000)
    for digit in range(5, min(int(lengths.max(initial=0)), _MAX_DIGITS) + 1):
        longer = np.flatnonzero(lengths >= digit)
        numbers[longer] += digits[ends[longer] - digit].astype(np.uint32) * np.uint32(10 ** (digit - 1))
    return numbers.astype(np.int32)


def _targets(numbers: npt.NDArray[np.int32], rules: Rules) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Class index of each number, or itself for regression [lines, 1], and whether it is allowed there."""
    if rules.num_targets:
        return numbers.astype(np.int64)[:, None], np.full(len(numbers), rules.num_targets == 1)
    order = np.argsort(rules.labels)
    ascending = np.asarray(rules.labels, np.int64)[order]
    nearest = np.minimum(np.searchsorted(ascending, numbers), len(ascending) - 1)
    known = ascending[nearest] == numbers
    if rules.any_label:
        return np.where(known, order[nearest], -1), np.ones_like(known)
    return order[nearest], known
