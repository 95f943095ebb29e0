"""Parser of libsvm text byte by byte, compiled by Numba for this CPU.

It takes every line that is plainly well-formed, and leaves all others to whoever can say what is wrong with them.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from pipelines.data.formats.number_kernel import digit_at, number

# Numba makes a float of a signed and an unsigned integer, and checks signed indices for wraparound: so most are unsigned.
_u64: Any = np.uint64
_i64: Any = np.int64
_0, _1, _10 = _u64(0), _u64(1), _u64(10)
_TAB, _NEWLINE, _RETURN, _SPACE, _HASH, _COMMA, _COLON = (_u64(ord(character)) for character in "\t\n\r #,:")
_MAX_INDEX_DIGITS = _u64(18)
# Kinds of values: 0 to 255, which a byte can hold; -0, which one cannot, though it equals 0; all others.
_BYTE, _MINUS_ZERO, _OTHER = 0, 1, 2

_jit = numba.njit(error_model="numpy")
_inline = numba.njit(error_model="numpy", forceinline=True)


class Limits(NamedTuple):
    """What a line may contain: `libsvm_line.Rules`."""

    first_index: int
    num_values: int
    low: float
    high: float
    labels: npt.NDArray[np.float64]
    """Ascending."""
    classes: npt.NDArray[np.int32]
    """The class indices of `labels`."""
    num_targets: int
    any_label: bool
    largest_target: float


class Rows(NamedTuple):
    """What is read. Each line has room for a row."""

    bytes: npt.NDArray[np.uint8]
    """(rows, values), all 0 at first."""
    floats: npt.NDArray[np.float32]
    """(rows, values), all 0 at first. Either this or `bytes` is empty: no rows."""
    classes: npt.NDArray[np.int32]
    """(rows,): class indices; empty for regression."""
    targets: npt.NDArray[np.float32]
    """(rows, targets); empty for classification."""
    lines: npt.NDArray[np.int64]
    """(rows,): number of the line, from 0."""
    left: npt.NDArray[np.int64]
    """(lines, 3): start, end and row of each line that is left to others. It keeps its row."""


class Progress(NamedTuple):
    """How far the text has been read."""

    position: int
    lines: int
    rows: int
    left: int
    has_fractions: bool
    """A line that was taken has a value that is no integer from 0 to 255."""
    needs_floats: bool
    """The next line has a value that `Rows.bytes` cannot hold."""


START = Progress(0, 0, 0, 0, False, False)


@_inline
def _class_of(label, labels, classes):  # type: ignore[no-untyped-def]
    """The class index of a label, or -1."""
    low, high = _0, _u64(len(labels))
    while low < high:
        middle = (low + high) >> _1
        if labels[middle] < label:
            low = middle + _1
        else:
            high = middle
    return classes[low] if low < _u64(len(labels)) and labels[low] == label else np.int32(-1)


@_inline
def _line_end(text, at):  # type: ignore[no-untyped-def]
    while text[at] != _NEWLINE:
        at += _1
    return at


@_inline
def _is_gap(character):  # type: ignore[no-untyped-def]
    return character == _SPACE or character == _TAB or character == _RETURN


@_inline
def _is_end(character):  # type: ignore[no-untyped-def]
    return character == _NEWLINE or character == _HASH


@_inline
def _index(text, at):  # type: ignore[no-untyped-def]
    """The index there, the position behind it, and whether it is one."""
    start, index = at, _0
    digit = digit_at(text, at)
    while digit < _10:
        index = index * _10 + digit
        at += _1
        digit = digit_at(text, at)
    return index, at, _0 < at - start <= _MAX_INDEX_DIGITS and text[at] == _COLON


@_inline
def _byte(text, at, low, high):  # type: ignore[no-untyped-def]
    """The integer there, the position behind it, and whether the value is one between two limits, written with digits alone."""
    start, byte = at, _0
    digit = digit_at(text, at)
    while digit < _10:
        byte = byte * _10 + digit
        at += _1
        digit = digit_at(text, at)
    digits = at - start
    return byte, at, low <= byte <= high and _0 < digits <= _MAX_INDEX_DIGITS and (_is_gap(text[at]) or _is_end(text[at]))


@_inline
def _kind(value):  # type: ignore[no-untyped-def]
    if not 0 <= value <= 255 or np.float64(np.int32(value)) != value:
        return _OTHER
    return _MINUS_ZERO if value == 0 and 1 / value < 0 else _BYTE


@_inline
def _targets(text, at, row, limits, classes, targets):  # type: ignore[no-untyped-def]
    """Read a label or the targets. Returns the position behind it, and whether it is taken."""
    labels, classes_of_labels, num_targets, any_label, largest = limits
    count = _0
    while True:
        value, at, taken = number(text, at)
        if not taken:
            return at, False
        if num_targets == _0:
            found = _class_of(value, labels, classes_of_labels)
            classes[row] = found
            return at, found >= 0 or any_label
        if not abs(value) <= largest:
            return at, False
        targets[row * num_targets + count] = np.float32(value)
        count += _1
        if count == num_targets or text[at] != _COMMA:
            return at, count == num_targets
        at += _1


@_jit
def _clear(bytes_, floats, first, width):  # type: ignore[no-untyped-def]
    """Set a row to 0."""
    for place in range(first, first + width):
        if len(bytes_) > 0:
            bytes_[place] = 0
        else:
            floats[place] = 0


def read_lines(text, progress, limits, rows):  # type: ignore[no-untyped-def]
    """Read on, to the end of the text or to the first line that needs `Rows.floats`. Compiled by `libsvm_compiled`.

    Args:
        text: uint8, which ends in a newline.
        progress: how far it has been read.
        limits: what a line may contain.
        rows: where to put the rows.

    Returns:
        the new `Progress`.
    """
    at, lines, row, left = _u64(progress.position), progress.lines, _u64(progress.rows), progress.left
    has_fractions = progress.has_fractions
    # What is taken out of a tuple is counted as a reference: not in the loops.
    first_index, width, low, high = _u64(limits.first_index), _u64(limits.num_values), limits.low, limits.high
    of_targets = (limits.labels, limits.classes, _u64(limits.num_targets), limits.any_label, limits.largest_target)
    bytes_, floats, classes, targets, line_of_row, lines_left = rows
    whole = len(bytes_) > 0
    low_byte = _u64(math.ceil(max(low, 0.0))) if high >= 0 and low <= 255 else _u64(256)
    high_byte = _u64(math.floor(min(high, 255.0))) if high >= 0 else _0
    while at < _u64(len(text)):
        start = at
        while _is_gap(text[at]):
            at += _1
        if _is_end(text[at]):
            at = _line_end(text, at) + _1
            lines += 1
            continue
        at, taken = _targets(text, at, row, of_targets, classes, targets)
        # The smallest position that the next value can have.
        least, fractions, first = _0, False, row * width
        while taken:
            if text[at] == _SPACE and digit_at(text, at + _1) < _10:
                at += _1
            else:
                taken = _is_gap(text[at]) or _is_end(text[at])
                while _is_gap(text[at]):
                    at += _1
                if not taken or _is_end(text[at]):
                    break
            index, at, taken = _index(text, at)
            # An index below the first wraps around.
            position = index - first_index
            if not taken or position < least or position >= width:
                taken = False
                break
            at += _1
            byte, end, is_byte = _byte(text, at, low_byte, high_byte)
            if is_byte:
                at = end
                if whole:
                    bytes_[first + position] = byte
                else:
                    floats[first + position] = byte
            else:
                value, at, taken = number(text, at)
                if not taken or not low <= value <= high:
                    taken = False
                    break
                kind = _kind(value)
                fractions = fractions or kind == _OTHER
                if not whole:
                    floats[first + position] = value
                elif kind == _BYTE:
                    bytes_[first + position] = value
                else:
                    return Progress(_i64(start), lines, _i64(row), left, has_fractions, True)
            least = position + _1
        at = _line_end(text, at)
        if taken:
            has_fractions = has_fractions or fractions
        else:
            _clear(bytes_, floats, first, width)
            lines_left[left, 0], lines_left[left, 1], lines_left[left, 2] = _i64(start), _i64(at), _i64(row)
            left += 1
        line_of_row[row] = lines
        row += _1
        at += _1
        lines += 1
    return Progress(_i64(at), lines, _i64(row), left, has_fractions, False)
