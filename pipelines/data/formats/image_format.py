"""What is expected of the images or features of a column, and what is wrong with values that are not like that."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import image_file
from pipelines.data.formats.chunk import Fault
from pipelines.data.table.schema import BYTES_PER_VALUE, Dtype

Content = Literal["raw", "encoded", "lists"]


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """The images or features that are expected, and what the column holds."""

    shape: tuple[int, ...]
    """Height, width, channels of an image; the number of features."""
    value_range: tuple[float, float]
    digits: bool
    """Whether to convert encoded images to MNIST's format."""
    resize: bool = True
    """Whether to resize encoded images of another size."""
    is_range_known: bool = True
    """Whether values outside `value_range` are refused, because the model was trained on such alone or the settings say so."""
    of_model: bool = True
    """Whether this is what a model expects, or what the settings say."""
    content: Content | None = None
    """What the column holds; None to decide it for each batch."""

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def missing(self) -> Fault:
        """The fault of a null."""
        return Fault("input_missing", "no image (null)" if len(self.shape) == 3 else "no features (null)")

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
    if len(target.shape) == 1:
        return "raw"
    pictures = raw = 0
    for length, head in values:
        if image_file.has_signature(head):
            pictures += 1
        elif length in target.raw_lengths:
            raw += 1
    return "raw" if raw > pictures else "encoded"


def wrong_values(images: npt.NDArray[Any], target: ImageFormat) -> npt.NDArray[np.bool_]:
    """Whether each image [n, ...] has a value that is missing, not finite or outside the model's range. [n]"""
    low, high = _limits(target)
    if not len(images) or (images.min() >= low and images.max() <= high):
        return np.zeros(len(images), np.bool_)
    return np.asarray((~((images >= low) & (images <= high))).reshape(len(images), -1).any(axis=1), np.bool_)


def value_fault(image: npt.NDArray[Any], target: ImageFormat) -> Fault:
    """What is wrong with an image that has such a value."""
    low, high = _limits(target)
    place = np.argwhere(~((image >= low) & (image <= high)))[0].tolist()
    value = image[tuple(place)]
    if not np.isfinite(value):
        return Fault("value_not_finite", f"the value at {place} is missing or not finite")
    owner = "of the model's training data" if target.of_model else "that data.value_range allows"
    return Fault("value_out_of_range", f"the value at {place} is {value:g}, outside the range {low:g} to {high:g} {owner}")


def _limits(target: ImageFormat) -> tuple[np.float32, np.float32]:
    # As float32, because a bound such as 0.1 is slightly larger there.
    if target.is_range_known:
        return np.float32(target.value_range[0]), np.float32(target.value_range[1])
    limits = np.finfo(np.float32)
    return np.float32(limits.min), np.float32(limits.max)
