"""Images in an Arrow column, whatever form it stores them in, and what is wrong with the values that are not images.

A column holds raw values (bytes of height x width x channels numbers, uint8 or little-endian float32), encoded pictures (PNG,
JPEG, ...), or lists of numbers. Rows of the first two kinds may be mixed. No Python object is made for a row of raw values.
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
    found = lengths(column)
    for dtype, size in BYTES_PER_VALUE.items():
        if (found == form.num_values * size).all():
            return Decoded(images(column, form.shape, dtype), np.arange(len(column)), ())
    return _mixed(column, found, form)


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


def lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes of each value of a binary column [n]; -1 where it is missing."""
    found: npt.NDArray[np.int64] = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def images(column: pa.Array, shape: tuple[int, int, int], dtype: Dtype) -> npt.NDArray[Any]:
    """The images [n, height, width, channels] of a binary column; every value must have the length of one image."""
    # One buffer for all rows, from where this slice of it begins.
    plain = pa.concat_arrays([pc.cast(column, pa.large_binary())])
    _, offsets, data = plain.buffers()
    first = int(np.frombuffer(offsets, np.int64)[plain.offset]) if len(plain) else 0
    count = len(plain) * int(np.prod(shape))
    if data is None:
        return np.empty((len(plain), *shape), np.dtype(dtype))
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), count=count, offset=first)
    return values.reshape(len(plain), *shape)
