"""Convert an image file to a network's input.

A network that was trained on digits in MNIST's format gets them in this format; any other gets the whole picture. One that was
trained on pictures of one size gets only such.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import image_file, mnist_format
from pipelines.data.formats.image_file import NoImage, WrongSize
from pipelines.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_image(
    path: Path, shape: tuple[int, ...], value_range: tuple[float, float], *, digits: bool, resize: bool = True
) -> npt.NDArray[Any]:
    """The network's input from an image file; see `decode_image`.

    Raises:
        DataError: the file cannot be read, or is not an image; names the file.
    """
    try:
        return decode_image(path.read_bytes(), shape, value_range, digits=digits, resize=resize)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from error
    except NoImage as error:
        raise DataError(f"{path}: {error}") from error


def decode_image(
    content: bytes, shape: tuple[int, ...], value_range: tuple[float, float], *, digits: bool, resize: bool = True
) -> npt.NDArray[np.float32]:
    """Decode an image.

    Args:
        content: PNG, JPEG or any other format that Pillow reads, of any size.
        shape: height, width and channels of the network's input.
        value_range: values of black and white.
        digits: convert the picture to MNIST's format (shape 28 x 28 x 1 only).
        resize: resize a picture of another size.

    Returns:
        [height, width, channels] float32 in `value_range`.

    Raises:
        NoImage: the bytes are not an image, it shows no digit, has another size, or the number of channels is not supported.
    """
    try:
        return image_file.scale_to(convert(image_file.decode(content), shape, digits=digits, resize=resize), value_range)
    except WrongSize as error:
        raise NoImage(size_fault(error, shape, of_model=True)) from error


def convert(picture: "Image", shape: tuple[int, ...], *, digits: bool, resize: bool) -> npt.NDArray[Any]:
    """Values [height, width, channels] of a picture, from 0 to 255: float32 of digits in MNIST's format, otherwise uint8.

    Raises:
        WrongSize: it has another size, and is not resized.
        NoImage: it shows no digit, or the number of channels is not supported.
    """
    if digits:
        return mnist_format.from_picture(picture)
    if not resize and picture.size != (shape[1], shape[0]):
        raise WrongSize(f"is {picture.size[1]} x {picture.size[0]}")
    return image_file.to_array(picture, shape)


def size_fault(error: WrongSize, shape: tuple[int, ...], *, of_model: bool) -> str:
    """What is wrong with a picture of another size, and the remedy.

    Args:
        error: says its size.
        shape: the expected height and width.
        of_model: whether they are those of a model, or of the settings.
    """
    expected = f"{shape[0]} x {shape[1]}"
    if of_model:
        return f"{error}, but the model was trained on pictures of {expected} only; --form picture resizes it"
    return f"{error} where data.image_shape says {expected}; data.resize_pictures=true resizes all pictures"
