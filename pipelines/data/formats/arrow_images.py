"""Decode the images of an Arrow column, and report why the remaining values are not images.

A column holds raw values (bytes of height x width x channels numbers, uint8 or little-endian float32), encoded images (PNG,
JPEG, ...), or lists of numbers. Which of them is decided once for the column, since a single value can look like both. Raw values
are read without a Python object per row.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.formats import image_file
from pipelines.data.formats.digits import decode_image
from pipelines.data.formats.image_file import NoImage
from pipelines.data.table.schema import BYTES_PER_VALUE, Dtype

Content = Literal["raw", "encoded", "lists"]
_NO_IMAGE = "no image (null)"


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """The images that the model expects, and what the column holds."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    value_range: tuple[float, float]
    digits: bool
    """Whether to convert encoded images to MNIST's format."""
    resize: bool = True
    """Whether to resize encoded images of another size."""
    is_range_known: bool = True
    """Whether the model was trained on values in `value_range`, so that others are refused."""
    content: Content | None = None
    """What the column holds; None to decide it for each batch."""

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def raw_lengths(self) -> dict[int, Dtype]:
        """Length in bytes of the raw values of an image, by dtype."""
        return {self.num_values * size: dtype for dtype, size in BYTES_PER_VALUE.items()}


def binary_content(values: Iterable[tuple[int, bytes]], target: ImageFormat) -> Content:
    """What a binary column holds.

    Args:
        values: length and first bytes (at least `image_file.SIGNATURE_BYTES`) of some of its values.
        target: the images that the model expects.
    """
    pictures = raw = 0
    for length, head in values:
        if image_file.has_signature(head):
            pictures += 1
        elif length in target.raw_lengths:
            raw += 1
    return "raw" if raw > pictures else "encoded"


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
    content = target.content
    if content is None:
        heads = ((len(value), value[: image_file.SIGNATURE_BYTES]) for value in column.drop_null().to_pylist())
        content = binary_content(heads, target)
    return _decode_raw(column, target) if content == "raw" else _decode_encoded(column, target)


def _decode_raw(column: pa.Array, target: ImageFormat) -> DecodedImages:
    lengths = byte_lengths(column)
    dtypes = target.raw_lengths
    expected = " or ".join(f"{size} ({dtype})" for size, dtype in dtypes.items())
    errors = {
        index: _NO_IMAGE
        if lengths[index] < 0
        else f"has {lengths[index]} bytes; raw values of shape {list(target.shape)}, which this column holds, take {expected}"
        for index in np.flatnonzero(~np.isin(lengths, list(dtypes))).tolist()
    }
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]] = []
    for size, dtype in dtypes.items():
        indices = np.flatnonzero(lengths == size)
        if len(indices):
            rows = column if len(indices) == len(column) else column.take(pa.array(indices))
            images = raw_images(rows, target.shape, dtype)
            pictures = _are_png(images)
            errors |= dict.fromkeys(indices[pictures].tolist(), "is an encoded picture, but this column holds raw values")
            found.append((indices[~pictures], images[~pictures]) if pictures.any() else (indices, images))
    return _checked(found, errors, target)


def _are_png(images: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether the bytes of each image [n, ...] begin as a PNG file, which no raw values do by chance. [n]"""
    rows = images.reshape(len(images), -1).view(np.uint8)
    magic = np.frombuffer(image_file.PNG_MAGIC, np.uint8)
    if rows.shape[1] < len(magic):
        return np.zeros(len(images), np.bool_)
    found: npt.NDArray[np.bool_] = (rows[:, : len(magic)] == magic).all(axis=1)
    return found


def _decode_encoded(column: pa.Array, target: ImageFormat) -> DecodedImages:
    images: list[npt.NDArray[Any]] = []
    indices: list[int] = []
    errors: list[tuple[int, str]] = []
    for index, content in enumerate(column):
        try:
            images.append(_decode_value(content.as_py(), target))
            indices.append(index)
        except NoImage as error:
            errors.append((index, str(error)))
    stacked = np.stack(images) if images else np.empty((0, *target.shape), np.float32)
    return DecodedImages(stacked, np.asarray(indices, np.int64), tuple(errors))


def _decode_value(content: bytes | None, target: ImageFormat) -> npt.NDArray[Any]:
    if content is None:
        raise NoImage(_NO_IMAGE)
    try:
        return decode_image(content, target.shape, target.value_range, digits=target.digits, resize=target.resize)
    except NoImage as error:
        if image_file.has_signature(content[: image_file.SIGNATURE_BYTES]):
            raise
        raw = " or ".join(f"{size} ({dtype})" for size, dtype in target.raw_lengths.items())
        raise NoImage(f"{error}; raw values of shape {list(target.shape)} take {raw} bytes, not {len(content)}") from error


def _decode_lists(column: pa.Array, target: ImageFormat) -> DecodedImages:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    complete = np.flatnonzero(lengths == target.num_values)
    # Decimals become numbers, and nulls nan.
    values = pc.cast(column.take(pa.array(complete)).flatten(), pa.float64(), safe=False)
    # What is too large for float32 becomes infinite.
    with np.errstate(over="ignore"):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, *target.shape)
    errors = {
        index: f"{lengths[index]} values, but shape {list(target.shape)} has {target.num_values}"
        if lengths[index] >= 0
        else _NO_IMAGE
        for index in np.flatnonzero(lengths != target.num_values).tolist()
    }
    return _checked([(complete, numbers)] if len(complete) else [], errors, target)


def _checked(
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]], errors: dict[int, str], target: ImageFormat
) -> DecodedImages:
    """The images without those with values on which the model was not trained; these become errors."""
    kept = []
    for indices, images in found:
        wrong = _wrong_values(images, target)
        for row in np.flatnonzero(wrong).tolist():
            errors[int(indices[row])] = _value_error(images[row], target)
        kept.append((indices[~wrong], images[~wrong]) if wrong.any() else (indices, images))
    ordered = tuple(sorted(errors.items()))
    if len(kept) == 1:
        return DecodedImages(kept[0][1], kept[0][0], ordered)
    if not kept:
        return DecodedImages(np.empty((0, *target.shape), np.float32), np.empty(0, np.int64), ordered)
    every = np.concatenate([indices for indices, _ in kept])
    images = np.concatenate([images.astype(np.float32) for _, images in kept])
    order = np.argsort(every)
    return DecodedImages(images[order], every[order], ordered)


def _wrong_values(images: npt.NDArray[Any], target: ImageFormat) -> npt.NDArray[np.bool_]:
    """Whether each image [n, ...] has a value that is missing, not finite or outside the model's range. [n]"""
    low, high = _limits(target)
    if not len(images) or (images.min() >= low and images.max() <= high):
        return np.zeros(len(images), np.bool_)
    return np.asarray((~((images >= low) & (images <= high))).reshape(len(images), -1).any(axis=1), np.bool_)


def _value_error(image: npt.NDArray[Any], target: ImageFormat) -> str:
    low, high = _limits(target)
    place = np.argwhere(~((image >= low) & (image <= high)))[0].tolist()
    value = image[tuple(place)]
    if not np.isfinite(value):
        return f"the value at {place} is missing or not finite"
    return f"the value at {place} is {value:g}, outside the range {low:g} to {high:g} of the model's training data"


def _limits(target: ImageFormat) -> tuple[np.float32, np.float32]:
    # As float32, because a bound such as 0.1 is slightly larger there.
    if target.is_range_known:
        return np.float32(target.value_range[0]), np.float32(target.value_range[1])
    limits = np.finfo(np.float32)
    return np.float32(limits.min), np.float32(limits.max)


def byte_lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Length in bytes of each value of a binary column [n]; -1 for null."""
    lengths: npt.NDArray[np.int64] = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def raw_images(column: pa.Array, shape: tuple[int, ...], dtype: Dtype) -> npt.NDArray[Any]:
    """The images [n, *shape] of a binary column; every value must be exactly one image long."""
    # All rows share one buffer; a slice of a column begins inside it.
    plain = pa.concat_arrays([pc.cast(column, pa.large_binary())])
    _, offsets, data = plain.buffers()
    first = int(np.frombuffer(offsets, np.int64)[plain.offset]) if len(plain) else 0
    count = len(plain) * int(np.prod(shape))
    if data is None:
        return np.empty((len(plain), *shape), np.dtype(dtype))
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), count=count, offset=first)
    return values.reshape(len(plain), *shape)
