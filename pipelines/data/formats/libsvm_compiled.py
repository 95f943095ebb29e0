"""Parser of libsvm text with the compiled `libsvm_kernel`. `pipelines.data.formats.libsvm` states the rules.

The lines that the kernel does not take go to `parse_line`, which either parses a line or says what is wrong with it.
"""

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.config.data import MAX_VALUE
from pipelines.data.formats.chunk import BadLine, Chunk, Fault
from pipelines.data.formats.libsvm_line import Row, Rules, parse_line
from pipelines.system import kernel_cache

if TYPE_CHECKING:
    from pipelines.data.formats.libsvm_kernel import Limits, Progress, Rows

_log = logging.getLogger(__name__)

_MODULES = tuple(f"pipelines.data.formats.{name}" for name in ("libsvm_kernel", "number_kernel"))
_NEWLINE = 10
# Larger integers are not all doubles.
_LARGEST_LABEL = 2**53


def can_parse(rules: Rules) -> bool:
    """Whether the kernel knows these rules and Numba can compile it, which the first call does."""
    return all(abs(label) <= _LARGEST_LABEL for label in rules.labels) and _read_lines() is not None


def is_installed() -> bool:
    """Whether Numba is there, which `can_parse` requires, without importing it."""
    return kernel_cache.is_installed()


def prepare() -> None:
    """Compile the kernel now, if it is not kept, so that no later process has to. Does nothing without Numba."""
    _read_lines()


def is_kept() -> bool:
    """Whether the kernel need not be compiled but only loaded."""
    return kernel_cache.is_kept(_MODULES)


def parse(text: bytes | memoryview, rules: Rules) -> Chunk:
    """Parse lines, each of which ends in a newline, as `libsvm.parse`. Requires `can_parse`."""
    characters = np.frombuffer(text, np.uint8)
    if not len(characters) or characters[-1] != _NEWLINE:
        raise ValueError("the text does not end in a newline")
    num_lines = int(np.count_nonzero(characters == _NEWLINE))
    progress, rows = _read(characters, num_lines, rules)
    left = rows.left[: progress.left].tolist()
    slow_rows: list[tuple[int, Row]] = []
    bad_lines: list[BadLine] = []
    is_row = np.ones(progress.rows, np.bool_)
    for start, end, number in left:
        raw = bytes(text[start:end])
        outcome = parse_line(raw, rules)
        if isinstance(outcome, Row):
            slow_rows.append((number, outcome))
            continue
        is_row[number] = False
        if isinstance(outcome, Fault):
            bad_lines.append(BadLine(int(rows.lines[number]), raw, outcome))
    whole = not progress.has_fractions
    whole = whole and all(0 <= value <= 255 and value == int(value) for _, row in slow_rows for value in row.values)
    inputs: npt.NDArray[Any] = rows.bytes if len(rows.bytes) else rows.floats
    inputs = inputs.reshape(num_lines, rules.num_values)[: progress.rows].astype(np.uint8 if whole else np.float32, copy=False)
    targets: npt.NDArray[Any] = rows.targets.reshape(num_lines, rules.num_targets) if rules.num_targets else rows.classes
    targets, lines = targets[: progress.rows], rows.lines[: progress.rows]
    for number, row in slow_rows:
        targets[number] = row.target
        inputs[number, row.positions] = row.values
    if not is_row.all():
        inputs, targets, lines = inputs[is_row], targets[is_row], lines[is_row]
    return Chunk(num_lines=num_lines, inputs=inputs, targets=targets, lines=lines, bad_lines=tuple(bad_lines))


def _read(text: npt.NDArray[np.uint8], num_lines: int, rules: Rules) -> tuple["Progress", "Rows"]:
    """Read lines with the kernel."""
    from pipelines.data.formats.libsvm_kernel import START

    read_lines, limits, rows = _read_lines(), _limits(rules), _room(num_lines, rules)
    assert read_lines is not None
    progress = read_lines(text, START, limits, rows)
    if progress.needs_floats:
        floats = np.zeros(len(rows.bytes), np.float32)
        filled = progress.rows * rules.num_values
        floats[:filled] = rows.bytes[:filled]
        rows = rows._replace(bytes=np.empty(0, np.uint8), floats=floats)
        progress = read_lines(text, progress, limits, rows)
    return progress, rows


def _room(num_lines: int, rules: Rules) -> "Rows":
    """Room for as many rows as there are lines."""
    from pipelines.data.formats.libsvm_kernel import Rows

    return Rows(
        bytes=np.zeros(num_lines * rules.num_values, np.uint8),
        floats=np.empty(0, np.float32),
        classes=np.empty(0 if rules.num_targets else num_lines, np.int32),
        targets=np.empty(num_lines * rules.num_targets, np.float32),
        lines=np.empty(num_lines, np.int64),
        left=np.empty((num_lines, 3), np.int64),
    )


@functools.lru_cache(maxsize=8)
def _limits(rules: Rules) -> "Limits":
    from pipelines.data.formats.libsvm_kernel import Limits

    order = np.argsort(rules.labels, kind="stable")
    return Limits(
        first_index=rules.first_index,
        num_values=rules.num_values,
        low=float(rules.value_range[0]),
        high=float(rules.value_range[1]),
        labels=np.asarray(rules.labels, np.float64)[order],
        classes=order.astype(np.int32),
        num_targets=rules.num_targets,
        any_label=rules.any_label,
        largest_target=MAX_VALUE,
    )


@functools.cache
def _read_lines() -> Callable[..., "Progress"] | None:
    """The compiled `libsvm_kernel.read_lines`; None without Numba."""
    if not kernel_cache.is_installed():
        return None
    # A Numba that does not fit the other packages raises anything.
    try:
        from pipelines.data.formats import libsvm_kernel

        rules = Rules(shape=(1,), value_range=(0.0, 1.0), labels=(0, 1))
        text = np.frombuffer(b"1 1:1\n", np.uint8)
        example = (text, libsvm_kernel.START, _limits(rules), _room(1, rules))
        return kernel_cache.compiled(libsvm_kernel.read_lines, _MODULES, example)
    except Exception as error:
        _log.info("libsvm text is parsed more slowly, because Numba fails: %s", error)
        return None
