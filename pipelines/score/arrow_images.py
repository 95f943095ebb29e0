"""Decode the images of an Arrow column, and report why the remaining values are not images.

A column holds raw values (bytes of height x width x channels numbers, uint8 or little-endian float32), encoded images (PNG,
JPEG, ...), or lists of numbers. Rows of the first two kinds may be mixed. Raw values are read without a Python object per row.
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
    """The images that the model expects."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    value_range: tuple[float, float]
    digits: bool
    """Whether to convert encoded images to MNIST's format."""

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Decoded:
    images: npt.NDArray[Any]
    """[n, height, width, channels], n <= rows of the column."""
    rows: npt.NDArray[np.int64]
    """Indices of those images in the column, ascending [n]."""
    faults: tuple[tuple[int, str], ...]
    """Index and reason for every other row, ascending."""


def decode(column: pa.Array, form: Form) -> Decoded:
    """Images and errors of a column of binary values or of lists of numbers."""
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
        raise NoImage("no image (null)")
    if length in dtypes:
        return np.frombuffer(content, np.dtype(dtypes[length]).newbyteorder("<")).reshape(form.shape)
    try:
        return read(content, form.shape, form.value_range, digits=form.digits)
    except NoImage as error:
        raw = " or ".join(f"{size} ({dtype})" for size, dtype in dtypes.items())
        raise NoImage(f"{error}; raw values of shape {list(form.shape)} take {raw} bytes, not {length}") from error


def _lists(column: pa.Array, form: Form) -> Decoded:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    good = np.flatnonzero(lengths == form.num_values)
    values = column.take(pa.array(good)).flatten()
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(good), form.num_values)
    finite = np.isfinite(numbers).all(axis=1)
    faults = [
        (
            place,
            f"{lengths[place]} values, but shape {list(form.shape)} has {form.num_values}"
            if lengths[place] >= 0
            else "no image (null)",
        )
        for place in np.flatnonzero(lengths != form.num_values).tolist()
    ] + [(place, "a value is missing or not finite") for place in good[~finite].tolist()]
    return Decoded(numbers[finite].reshape(-1, *form.shape), good[finite], tuple(sorted(faults)))


def lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Length in bytes of each value of a binary column [n]; -1 for null."""
    found: npt.NDArray[np.int64] = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def images(column: pa.Array, shape: tuple[int, int, int], dtype: Dtype) -> npt.NDArray[Any]:
    """The images [n, height, width, channels] of a binary column; every value must be exactly one image long."""
    # All rows share one buffer; a slice of a column begins inside it.
    plain = pa.concat_arrays([pc.cast(column, pa.large_binary())])
    _, offsets, data = plain.buffers()
    first = int(np.frombuffer(offsets, np.int64)[plain.offset]) if len(plain) else 0
    count = len(plain) * int(np.prod(shape))
    if data is None:
        return np.empty((len(plain), *shape), np.dtype(dtype))
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), count=count, offset=first)
    return values.reshape(len(plain), *shape)
