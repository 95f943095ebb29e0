"""How close are the predictions? Predicted against true numbers, and the line on which they would be equal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "How close are the predictions?"
# More points, or panels, could not be distinguished.
_POINTS = 5_000
_PANELS = 6


def draw(targets: npt.NDArray[Any], outputs: npt.NDArray[Any], names: Sequence[str]) -> Drawing:
    """One panel for each number, at most six.

    Args:
        targets: true numbers [n, targets].
        outputs: predicted numbers [n, targets].
        names: of the numbers.
    """
    shown = np.linspace(0, len(targets) - 1, min(len(targets), _POINTS)).astype(np.int64)
    panels = min(len(names), _PANELS)
    figure = style.new_figure(max(5.4, 4.6 * min(panels, 3)), 4.9 * -(-panels // 3), QUESTION, _answer(targets, outputs, names))
    for panel in range(panels):
        axes = figure.add_subplot(-(-panels // 3), min(panels, 3), panel + 1)
        true, predicted = targets[shown, panel], outputs[shown, panel]
        style.plain_axes(axes, f"true {style.shortened(names[panel], 30)}", "predicted")
        axes.plot(true, predicted, "o", color=style.BLUE, markersize=3, alpha=0.35, markeredgewidth=0)
        ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        axes.plot(ends, ends, color=style.GREY, linewidth=1, linestyle="--", label="equal")
        style.legend(axes)
    rows = [
        (names[number], float(targets[row, number]), float(outputs[row, number]))
        for number in range(panels)
        for row in shown.tolist()
    ]
    return Drawing(figure, ("target", "true", "predicted"), rows)


def _answer(targets: npt.NDArray[Any], outputs: npt.NDArray[Any], names: Sequence[str]) -> str:
    errors = outputs.astype(np.float64) - targets
    parts = [
        f"{style.shortened(name, 20)}: half of the errors are below {median:.4g}, nine of ten below {most:.4g}"
        for name, median, most in zip(names, *np.quantile(np.abs(errors), (0.5, 0.9), axis=0), strict=True)
    ]
    return ";  ".join(parts[:2])
