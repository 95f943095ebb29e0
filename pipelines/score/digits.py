"""Convert an image file to a network's input.

A network that was trained on digits in MNIST's format gets them in this format; any other gets the whole picture, resized.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import image_file
from pipelines.data.formats.image_file import NoImage
from pipelines.data.formats.mnist_format import to_mnist_format
from pipelines.errors import DataError


def read_image(path: Path, shape: tuple[int, int, int], value_range: tuple[float, float], *, digits: bool) -> npt.NDArray[Any]:
    """The network's input from an image file; see `decode_image`.

    Raises:
        DataError: the file cannot be read, or is not an image; names the file.
    """
    try:
        return decode_image(path.read_bytes(), shape, value_range, digits=digits)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from error
    except NoImage as error:
        raise DataError(f"{path}: {error}") from error


def decode_image(
    content: bytes, shape: tuple[int, int, int], value_range: tuple[float, float], *, digits: bool
) -> npt.NDArray[np.float32]:
    """Decode an image.

    Args:
        content: PNG, JPEG or any other format that Pillow reads, of any size.
        shape: height, width and channels of the network's input.
        value_range: values of black and white.
        digits: convert the picture to MNIST's format (shape 28 x 28 x 1 only).

    Returns:
        [height, width, channels] float32 in `value_range`.

    Raises:
        NoImage: the bytes are not an image, it shows no digit, or the number of channels is not supported.
    """
    picture = image_file.decode(content)
    if digits:
        grey = np.asarray(image_file.flatten_alpha(picture).convert("L"), np.float32)
        return image_file.scale_to(to_mnist_format(grey)[:, :, None], value_range)
    return image_file.scale_to(image_file.to_array(picture, shape), value_range)
