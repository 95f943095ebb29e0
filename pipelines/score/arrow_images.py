"""The images of an Arrow column, whatever form it keeps them in, and what is wrong with those that are none.

A column holds raw values (bytes of height x width x channels numbers, uint8 or little-endian float32), encoded pictures (PNG,
JPEG, ...), or lists of numbers. Rows of the first two kinds may be mixed.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.formats.image_file import NoImage
from pipelines.data.table.schema import BYTES_PER_VALUE, Dtype
from pipelines.score import columns
from pipelines.score.digits import read


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the model takes."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    value_range: tuple[float, float]
    digits: bool
    """Bring encoded pictures into MNIST's form."""

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Decoded:
    images: npt.NDArray[Any]
    """[n, height, width, channels], n <= rows of the column."""
    rows: npt.NDArray[np.int64]
    """Places of those images in the column, ascending [n]."""
    faults: tuple[tuple[int, str], ...]
    """Place and reason of every other row, ascending."""


def decode(column: pa.Array, form: Form) -> Decoded:
    """Images and faults of a column of binary values or of lists of numbers."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _lists(column, form)
    lengths = columns.lengths(column)
    for dtype, size in BYTES_PER_VALUE.items():
        if (lengths == form.num_values * size).all():
            return Decoded(columns.images(column, form.shape, dtype), np.arange(len(column)), ())
    return _mixed(column, lengths, form)


def _mixed(column: pa.Array, lengths: npt.NDArray[np.int64], form: Form) -> Decoded:
    found: list[npt.NDArray[Any]] = []
    rows: list[int] = []
    faults: list[tuple[int, str]] = []
    dtypes: dict[int, Dtype] = {form.num_values * size: dtype for dtype, size in BYTES_PER_VALUE.items()}
    for place, content in enumerate(column):
        try:
            found.append(_one(content.as_py(), int(lengths[place]), dtypes, form))
            rows.append(place)
        except NoImage as error:
            faults.append((place, str(error)))
    images = np.stack(found) if found else np.empty((0, *form.shape), np.float32)
    return Decoded(images, np.asarray(rows, np.int64), tuple(faults))


def _one(content: bytes | None, length: int, dtypes: dict[int, Dtype], form: Form) -> npt.NDArray[Any]:
    if content is None:
        raise NoImage("there is no image (null)")
    if length in dtypes:
        return np.frombuffer(content, np.dtype(dtypes[length]).newbyteorder("<")).reshape(form.shape)
    try:
        return read(content, form.shape, form.value_range, digits=form.digits)
    except NoImage as error:
        raw = " or ".join(f"{size} ({dtype})" for size, dtype in dtypes.items())
        raise NoImage(f"{error}; raw values of {list(form.shape)} have {raw} bytes, these are {length}") from error


def _lists(column: pa.Array, form: Form) -> Decoded:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    good = np.flatnonzero(lengths == form.num_values)
    values = column.take(pa.array(good)).flatten()
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(good), form.num_values)
    finite = np.isfinite(numbers).all(axis=1)
    faults = [
        (
            place,
            f"{lengths[place]} values where {list(form.shape)} has {form.num_values}"
            if lengths[place] >= 0
            else "no image (null)",
        )
        for place in np.flatnonzero(lengths != form.num_values).tolist()
    ] + [(place, "a value is missing or not finite") for place in good[~finite].tolist()]
    return Decoded(numbers[finite].reshape(-1, *form.shape), good[finite], tuple(sorted(faults)))
