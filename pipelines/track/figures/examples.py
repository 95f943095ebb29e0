"""What does the network see? Training examples after augmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "What does the network see?"
COUNT = 40
_COLUMNS = 10


def draw(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], class_names: Sequence[str], value_range: tuple[float, float]
) -> Drawing:
    """A grid of at most `COUNT` examples with their labels.

    Args:
        images: [n, height, width, channels] in source values, n >= 1.
        labels: class index [n].
        class_names: by class index.
        value_range: smallest and largest possible value of an image.
    """
    images, labels = images[:COUNT], labels[:COUNT]
    lines = -(-len(images) // _COLUMNS)
    height, width, channels = images.shape[1:]
    low, high = value_range
    answer = f"the first {len(images)} examples of a batch: {height} x {width} x {channels}, values {low:g} to {high:g}"
    figure = style.new_figure(9.5, 0.9 + 1.12 * lines, QUESTION, answer)
    axes = figure.subplots()
    style.picture_axes(axes, _COLUMNS, lines * 1.2)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        column, line = number % _COLUMNS, number // _COLUMNS * 1.2
        style.tile(axes, style.displayable(image, value_range), column, line + 0.24, cmap="gray", vmin=0, vmax=1)
        name = style.shortened(class_names[label], 12)
        axes.text(column + 0.02, line + 0.2, name, fontsize=style.SMALL, color=style.INK)
    values = images.reshape(len(images), -1).astype(np.float64)
    rows = [
        (number, class_names[label], value.min(), value.mean(), value.max())
        for number, (label, value) in enumerate(zip(labels, values, strict=True))
    ]
    return Drawing(figure, ("example", "label", "smallest_value", "mean_value", "largest_value"), rows)
