"""Decode the images or features of an Arrow column, and report why the remaining values are none.

A column holds raw values (bytes of height x width x channels numbers, uint8 or little-endian float32), encoded images (PNG,
JPEG, ...), lists of numbers, or structs (`pipelines.data.formats.arrow_structs`). Which of them is decided once for the column,
since a single value can look like both. Raw values are read without a Python object per row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.formats import arrow_structs, digits, image_file
from pipelines.data.formats.chunk import Fault
from pipelines.data.formats.image_file import NoImage, WrongSize
from pipelines.data.formats.image_format import ImageFormat, binary_content, value_fault, wrong_values
from pipelines.data.table.schema import Dtype


@dataclass(frozen=True)
class DecodedImages:
    images: npt.NDArray[Any]
    """[n, height, width, channels], n <= rows of the column."""
    indices: npt.NDArray[np.int64]
    """Indices of those images in the column, ascending [n]."""
    errors: tuple[tuple[int, Fault], ...]
    """Index and fault of every other row, ascending."""


def decode(column: pa.Array, target: ImageFormat) -> DecodedImages:
    """Images and errors of a column of binary values, lists of numbers, or structs."""
    kind = arrow_structs.struct_kind(arrow_structs.names_of(column.type))
    if kind == "vector":
        return _decode_vectors(column, target)
    if kind == "image":
        return _decode_encoded(column, target)
    if kind == "bytes":
        column = pc.struct_field(column, "bytes")
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
    rule = f"bytes; raw values of shape {list(target.shape)}, which this column holds, take {expected}"
    errors = {
        index: target.missing if lengths[index] < 0 else Fault("wrong_length", f"has {lengths[index]} {rule}")
        for index in np.flatnonzero(~np.isin(lengths, list(dtypes))).tolist()
    }
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]] = []
    for size, dtype in dtypes.items():
        indices = np.flatnonzero(lengths == size)
        if len(indices):
            rows = column if len(indices) == len(column) else column.take(pa.array(indices))
            images = raw_images(rows, target.shape, dtype)
            pictures = _are_png(images)
            encoded = Fault("encoded_picture", "is an encoded picture, but this column holds raw values")
            errors |= dict.fromkeys(indices[pictures].tolist(), encoded)
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
    errors: list[tuple[int, Fault]] = []
    for index, content in enumerate(column):
        value = content.as_py()
        if value is None:
            errors.append((index, target.missing))
            continue
        try:
            images.append(_decode_value(value, target))
            indices.append(index)
        except WrongSize as error:
            text = digits.size_fault(error, target.shape, of_model=target.of_model)
            errors.append((index, Fault("picture_of_wrong_size", text)))
        except NoImage as error:
            errors.append((index, Fault("not_a_picture", ascii(str(error))[1:-1])))
    stacked = np.stack(images) if images else np.empty((0, *target.shape), np.float32)
    return DecodedImages(stacked, np.asarray(indices, np.int64), tuple(errors))


def _decode_value(value: bytes | dict[str, Any], target: ImageFormat) -> npt.NDArray[Any]:
    if len(target.shape) != 3:
        raise NoImage("is a picture, where features are expected")
    try:
        picture = arrow_structs.picture_of(value) if isinstance(value, dict) else image_file.decode(value)
        pixels = digits.convert(picture, target.shape, digits=target.digits, resize=target.resize)
    except NoImage as error:
        if isinstance(value, dict) or image_file.has_signature(value[: image_file.SIGNATURE_BYTES]):
            raise
        raw = " or ".join(f"{size} ({dtype})" for size, dtype in target.raw_lengths.items())
        raise NoImage(f"{error}; raw values of shape {list(target.shape)} take {raw} bytes, not {len(value)}") from error
    return image_file.scale_to(pixels, target.value_range)


def _decode_lists(column: pa.Array, target: ImageFormat) -> DecodedImages:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    complete = np.flatnonzero(lengths == target.num_values)
    # Decimals become numbers, and nulls nan.
    values = pc.cast(column.take(pa.array(complete)).flatten(), pa.float64(), safe=False)
    return _decode_numbers(values.to_numpy(zero_copy_only=False), complete, lengths, target)


def _decode_vectors(column: pa.StructArray, target: ImageFormat) -> DecodedImages:
    lengths = arrow_structs.vector_lengths(column)
    complete = np.flatnonzero(lengths == target.num_values)
    return _decode_numbers(
        arrow_structs.dense_vectors(column.take(pa.array(complete)), target.num_values), complete, lengths, target
    )


def _decode_numbers(
    values: npt.NDArray[np.float64], complete: npt.NDArray[np.int64], lengths: npt.NDArray[Any], target: ImageFormat
) -> DecodedImages:
    """Images and errors of a column of lists: the values of the complete lists one after another, and the lengths of all."""
    # What is too large for float32 becomes infinite.
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32).reshape(-1, *target.shape)
    rule = f"values, but shape {list(target.shape)} has {target.num_values}"
    errors = {
        index: Fault("wrong_length", f"{lengths[index]} {rule}") if lengths[index] >= 0 else target.missing
        for index in np.flatnonzero(lengths != target.num_values).tolist()
    }
    return _checked([(complete, numbers)] if len(complete) else [], errors, target)


def _checked(
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]], errors: dict[int, Fault], target: ImageFormat
) -> DecodedImages:
    """The images without those with values on which the model was not trained; these become errors."""
    kept = []
    for indices, images in found:
        wrong = wrong_values(images, target)
        for row in np.flatnonzero(wrong).tolist():
            errors[int(indices[row])] = value_fault(images[row], target)
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
