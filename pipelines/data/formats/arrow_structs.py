"""Columns of structs as plain columns: vectors of Spark's MLlib, pictures as Spark's `image` format or Hugging Face keep them."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.formats.image_file import NoImage

if TYPE_CHECKING:
    from PIL.Image import Image

StructKind = Literal["vector", "image", "bytes"]
# https://spark.apache.org/docs/latest/ml-datasource.html: 8 bits a value, rows from the top, channels in OpenCV's order.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def struct_kind(names: list[str]) -> StructKind | None:
    """What a struct with these fields holds; None if it is nothing that is known here."""
    if {"type", "size", "indices", "values"} <= set(names):
        return "vector"
    if {"height", "width", "nChannels", "mode", "data"} <= set(names):
        return "image"
    return "bytes" if "bytes" in names else None


def names_of(column_type: pa.DataType) -> list[str]:
    """Names of the fields of a struct; empty for another type."""
    return [field.name for field in column_type] if pa.types.is_struct(column_type) else []


def vector_lengths(column: pa.StructArray) -> npt.NDArray[np.int64]:
    """Length of each vector of MLlib, dense or sparse [n]; -1 for null."""
    dense = pc.list_value_length(pc.struct_field(column, "values"))
    lengths = pc.if_else(pc.equal(pc.struct_field(column, "type"), 0), pc.struct_field(column, "size"), dense)
    found: npt.NDArray[np.int64] = pc.fill_null(lengths, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def dense_vectors(column: pa.StructArray, length: int) -> npt.NDArray[np.float64]:
    """The vectors of MLlib as rows [n, length]; each must have this length, and none be null."""
    is_sparse = pc.equal(pc.struct_field(column, "type"), 0).to_numpy(zero_copy_only=False).astype(np.bool_)
    rows = np.zeros((len(column), length), np.float64)
    values = pc.struct_field(column, "values")
    dense = values.filter(pa.array(~is_sparse)).flatten().to_numpy(zero_copy_only=False)
    rows[~is_sparse] = dense.reshape(-1, length)
    if is_sparse.any():
        sparse = pa.array(is_sparse)
        values, indices = values.filter(sparse), pc.struct_field(column, "indices").filter(sparse)
        counts = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        row_of_value = np.repeat(np.flatnonzero(is_sparse), counts)
        rows[row_of_value, indices.flatten().to_numpy(zero_copy_only=False)] = values.flatten().to_numpy(zero_copy_only=False)
    return rows


def picture_of(value: dict[str, Any]) -> "Image":
    """The picture in a struct of Spark's `image` format. Raises NoImage if it holds none."""
    from PIL import Image

    height, width, channels, content = value["height"], value["width"], value["nChannels"], value["data"]
    if channels not in _MODES or not content:
        raise NoImage("not an image that can be read (Spark could not decode it)")
    if len(content) != height * width * channels:
        raise NoImage(f"has {len(content)} bytes, but {height} x {width} x {channels} values; only 8 bits a value are supported")
    pixels = np.frombuffer(content, np.uint8).reshape(height, width, channels)
    # OpenCV's order is blue, green, red, alpha.
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, order]).squeeze(axis=2 if channels == 1 else ()), _MODES[channels])
