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
from pipelines.score.digits import decode_image


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
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
class DecodedImages:
    images: npt.NDArray[Any]
    """[n, height, width, channels], n <= rows of the column."""
    indices: npt.NDArray[np.int64]
    """Indices of those images in the column, ascending [n]."""
    errors: tuple[tuple[int, str], ...]
    """Index and reason for every other row, ascending."""


def decode(column: pa.Array, target: ImageFormat) -> DecodedImages:
    """Images and errors of a column of binary values or of lists of numbers."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _decode_lists(column, target)
    lengths = byte_lengths(column)
    for dtype, size in BYTES_PER_VALUE.items():
        if (lengths == target.num_values * size).all():
            return DecodedImages(raw_images(column, target.shape, dtype), np.arange(len(column)), ())
    return _decode_mixed(column, lengths, target)


def _decode_mixed(column: pa.Array, lengths: npt.NDArray[np.int64], target: ImageFormat) -> DecodedImages:
    images: list[npt.NDArray[Any]] = []
    indices: list[int] = []
    errors: list[tuple[int, str]] = []
    dtypes: dict[int, Dtype] = {target.num_values * size: dtype for dtype, size in BYTES_PER_VALUE.items()}
    for index, content in enumerate(column):
        try:
            images.append(_decode_value(content.as_py(), int(lengths[index]), dtypes, target))
            indices.append(index)
        except NoImage as error:
            errors.append((index, str(error)))
    stacked = np.stack(images) if images else np.empty((0, *target.shape), np.float32)
    return DecodedImages(stacked, np.asarray(indices, np.int64), tuple(errors))


def _decode_value(content: bytes | None, length: int, dtypes: dict[int, Dtype], target: ImageFormat) -> npt.NDArray[Any]:
    if content is None:
        raise NoImage("no image (null)")
    if length in dtypes:
        return np.frombuffer(content, np.dtype(dtypes[length]).newbyteorder("<")).reshape(target.shape)
    try:
        return decode_image(content, target.shape, target.value_range, digits=target.digits)
    except NoImage as error:
        raw = " or ".join(f"{size} ({dtype})" for size, dtype in dtypes.items())
        raise NoImage(f"{error}; raw values of shape {list(target.shape)} take {raw} bytes, not {length}") from error


def _decode_lists(column: pa.Array, target: ImageFormat) -> DecodedImages:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    complete = np.flatnonzero(lengths == target.num_values)
    values = column.take(pa.array(complete)).flatten()
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(complete), target.num_values)
    finite = np.isfinite(numbers).all(axis=1)
    errors = [
        (
            index,
            f"{lengths[index]} values, but shape {list(target.shape)} has {target.num_values}"
            if lengths[index] >= 0
            else "no image (null)",
        )
        for index in np.flatnonzero(lengths != target.num_values).tolist()
    ] + [(index, "a value is missing or not finite") for index in complete[~finite].tolist()]
    return DecodedImages(numbers[finite].reshape(-1, *target.shape), complete[finite], tuple(sorted(errors)))


def byte_lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Length in bytes of each value of a binary column [n]; -1 for null."""
    lengths: npt.NDArray[np.int64] = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def raw_images(column: pa.Array, shape: tuple[int, int, int], dtype: Dtype) -> npt.NDArray[Any]:
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
