"""Arrow columns of images to arrays, without a Python object for each row."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.table.schema import Dtype


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
