"""Decoding of image files (PNG, JPEG, ...) to 8-bit arrays."""

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# Pillow detects formats by content, not by name, and for some, such as PostScript, runs external programs.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
# First bytes of these formats. Those of BMP alone are too short: its header's size follows at byte 14.
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (PNG_MAGIC, b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
SIGNATURE_BYTES = 18
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = tuple(_MODES)
"""Numbers of channels to which a picture can be converted."""


class NoImage(ValueError):
    """Bytes cannot be used as an image. The message does not name the file, which only the caller knows."""


class WrongSize(NoImage):
    """A picture has another size than the images of the table or the model, and must not be resized."""


def has_signature(content: bytes) -> bool:
    """Whether bytes begin as a file of one of the `ENDINGS` does. Needs the first `SIGNATURE_BYTES`."""
    if content.startswith(_SIGNATURES):
        return True
    if content[:4] == b"RIFF":
        return content[8:12] == b"WEBP"
    if content[:2] == b"BM":
        return int.from_bytes(content[14:18], "little") in _BMP_HEADER_SIZES
    return content[:1] == b"P" and content[1:2] in b"123456" and content[2:3].isspace()


def decode(content: bytes) -> "Image":
    """Decode a picture to 8 bits per value, rotated upright.

    Args:
        content: PNG, JPEG or another format of `ENDINGS`.

    Raises:
        NoImage: the content is not a picture, is damaged, or would exhaust memory.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture that would exhaust memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                # EXIF data holds the camera's orientation; scanners may write 16 bits.
                return _eight_bits(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        raise NoImage("not an image that can be read (its content is of no known format)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NoImage(f"not an image that can be read ({error})") from error


def to_array(picture: "Image", shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Values [height, width, channels] of a picture, resized if it has another size.

    Raises:
        NoImage: a picture cannot be converted to this number of channels.
    """
    from PIL import Image

    height, width, channels = shape
    if channels not in _MODES:
        raise NoImage(f"the network takes {channels} channels; an image file gives {', '.join(map(str, CHANNELS))}")
    converted = (picture if channels == 4 else flatten_alpha(picture)).convert(_MODES[channels])
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(converted, np.uint8).reshape(shape)


def scale_to(values: npt.NDArray[Any], value_range: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Scale values from 0..255 to `value_range`."""
    low, high = value_range
    return (low + values * np.float32((high - low) / 255)).astype(np.float32)


def flatten_alpha(picture: "Image") -> "Image":
    """Remove transparency: the background becomes white below dark drawings, black below bright ones."""
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    layered = picture.convert("RGBA")
    values = np.asarray(layered, np.float32)
    opacity = values[:, :, 3]
    if opacity.min() == 255:
        return layered.convert("RGB")
    drawn = float((values[:, :, :3].mean(axis=2) * opacity).sum() / max(float(opacity.sum()), 1.0))
    background = Image.new("RGBA", layered.size, "white" if drawn < 128 else "black")
    return Image.alpha_composite(background, layered).convert("RGB")


def _eight_bits(picture: "Image") -> "Image":
    from PIL import Image

    if picture.mode not in ("I", "I;16", "I;16B", "I;16L", "F"):
        picture.load()
        return picture
    values = np.asarray(picture, np.float32)
    highest = 65535 if picture.mode != "F" else max(float(values.max()), 1.0)
    return Image.fromarray((values * (255 / highest)).clip(0, 255).astype(np.uint8), "L")
