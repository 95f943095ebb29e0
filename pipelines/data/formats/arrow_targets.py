"""Labels, targets and weights of Arrow columns, and what is wrong with the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.formats import arrow_structs
from pipelines.data.formats.chunk import Fault

Faults = dict[int, Fault]
_SHOWN = 12


@dataclass(frozen=True)
class Classes:
    """The classes of a column of labels, in their order."""

    values: tuple[str, ...] | tuple[int, ...]
    """Texts or whole numbers, as the column holds them."""
    settings: str
    """The settings that say them, for messages."""

    @property
    def are_texts(self) -> bool:
        return isinstance(self.values[0], str)

    def unknown(self, label: object) -> Fault:
        shown = ", ".join(map(str, self.values[:_SHOWN])) + (", ..." if len(self.values) > _SHOWN else "")
        return Fault("label_unknown", f"the label {_show(label)} is not one of {shown} ({self.settings})")


def class_indices(column: pa.Array, classes: Classes) -> tuple[npt.NDArray[np.int32], Faults]:
    """Class index of each label [n], -1 where there is none, and what is wrong with these labels."""
    if classes.are_texts:
        texts = pc.cast(column, pa.string())
        found = pc.fill_null(pc.index_in(texts, value_set=pa.array(classes.values, pa.string())), -1)
    else:
        # Decimals and booleans become numbers.
        numbers = pc.cast(column, pa.float64(), safe=False)
        found = pc.fill_null(pc.index_in(numbers, value_set=pa.array(classes.values, pa.float64())), -1)
    indices = found.to_numpy(zero_copy_only=False).astype(np.int32)
    wrong = np.flatnonzero((indices < 0) | ~column.is_valid().to_numpy(zero_copy_only=False))
    indices[wrong] = -1
    return indices, {int(row): _label_fault(column[int(row)].as_py(), classes) for row in wrong}


def _label_fault(label: Any, classes: Classes) -> Fault:
    if label is None:
        return Fault("label_missing", "the label is missing (null)")
    if not classes.are_texts:
        if not np.isfinite(float(label)):
            return Fault("label_not_finite", f"the label {label} is not a finite number")
        if float(label) != int(label):
            return Fault("label_not_whole", f"the label {label} is not a whole number")
    return classes.unknown(label)


def targets(column: pa.Array, count: int) -> tuple[npt.NDArray[np.float32], Faults]:
    """The targets [n, count] of a column of lists or vectors, and what is wrong with those that are none (nan)."""
    if arrow_structs.names_of(column.type):
        lengths = arrow_structs.vector_lengths(column)
        complete = np.flatnonzero(lengths == count)
        values = arrow_structs.dense_vectors(column.take(pa.array(complete)), count)
    else:
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
        complete = np.flatnonzero(lengths == count)
        numbers = pc.cast(column.take(pa.array(complete)).flatten(), pa.float64(), safe=False)
        values = numbers.to_numpy(zero_copy_only=False).reshape(-1, count)
    found = np.full((len(column), count), np.nan, np.float32)
    # What is too large for float32 becomes infinite.
    with np.errstate(over="ignore"):
        found[complete] = values
    faults: Faults = {}
    for row in np.flatnonzero(~np.isfinite(found).all(axis=1)).tolist():
        if lengths[row] == count:
            faults[row] = Fault("target_not_finite", "a target is missing (null) or not a finite number")
        else:
            had = f"{lengths[row]} numbers" if lengths[row] >= 0 else "no target (null)"
            faults[row] = Fault("target_missing", f"has {had}, where data.targets says {count}")
    return found, faults


def weights(column: pa.Array) -> tuple[npt.NDArray[np.float32], Faults]:
    """The weights [n] of a column of numbers, and what is wrong with those that are none."""
    values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        found = np.asarray(values, np.float32)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0))).tolist()
    return found, {row: _weight_fault(column[row].as_py(), found[row]) for row in wrong}


def _weight_fault(weight: Any, stored: np.float32) -> Fault:
    if weight is None:
        return Fault("weight_missing", "the weight is missing (null)")
    if not np.isfinite(stored):
        return Fault("weight_not_finite", f"the weight {weight} is not a finite number")
    return Fault("weight_negative", f"the weight {weight} is negative; a row counts 0 or more")


def class_order(labels: Sequence[str]) -> tuple[str, ...]:
    """Texts in the order of their classes: by number if all are numbers, otherwise by text."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _show(label: object) -> str:
    text = str(label) if not isinstance(label, str) else ascii(label)
    return text if len(text) <= 40 else text[:37] + "..."
