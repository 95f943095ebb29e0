"""What does the first layer look for? Its kernels, and where they respond in a few images."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "What does the first layer look for?"
# More columns would be unreadable.
KERNELS = 16


def draw(
    kernels: npt.NDArray[Any], images: npt.NDArray[Any], feature_maps: npt.NDArray[Any], value_range: tuple[float, float]
) -> Drawing:
    """Kernels in the first row; below, one row per image with its feature maps.

    Args:
        kernels: [height, width, channels in, channels out]. The mean over the input channels is shown.
        images: [n, height, width, channels] in source values.
        feature_maps: output of the layer, [n, height, width, channels out].
        value_range: smallest and largest possible value of an image.
    """
    height, width, _, count = kernels.shape
    shown = min(count, KERNELS)
    flat = kernels.mean(axis=2)
    limit = float(np.abs(flat).max()) or 1.0
    strength = feature_maps[..., :shown].max(axis=(1, 2))
    answer = (
        f"{'the first ' + str(shown) + ' of ' if shown < count else ''}{count} kernels of {height} x {width}: blue weights are "
        "negative, red ones positive;  below, bright where a kernel responds"
    )
    columns, lines = shown + 1.2, len(images) + 1.2
    scale = 11 / columns
    figure = style.new_figure(11, 0.9 + scale * lines, QUESTION, answer)
    axes = figure.subplots()
    style.picture_axes(axes, columns, lines)
    for kernel in range(shown):
        style.tile(axes, flat[..., kernel], kernel + 1.2, 0, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for line, image in enumerate(images):
        style.tile(axes, style.displayable(image, value_range), 0, line + 1.2, cmap="gray", vmin=0, vmax=1)
        for kernel in range(shown):
            response = feature_maps[line, ..., kernel]
            # Each kernel is scaled by its own maximum: a weak one would be black beside the others.
            top = max(float(strength[:, kernel].max()), 1e-12)
            style.tile(axes, response, kernel + 1.2, line + 1.2, cmap="gray", vmin=0, vmax=top)
    rows = [
        (kernel, row, column, channel, float(kernels[row, column, channel, kernel]))
        for kernel in range(shown)
        for row, column, channel in np.ndindex(*kernels.shape[:3])
    ]
    return Drawing(figure, ("kernel", "row", "column", "channel", "weight"), rows)
