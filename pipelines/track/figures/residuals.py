"""Is it wrong in one direction? Errors against predictions, and how often each occurs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "Is it wrong in one direction?"
# More points, or numbers, could not be distinguished.
_POINTS = 5_000
_TARGETS = 4
_BINS = 40


def draw(targets: npt.NDArray[Any], outputs: npt.NDArray[Any], names: Sequence[str]) -> Drawing:
    """Two panels for each number, at most four numbers: errors by prediction, and their histogram.

    Args:
        targets: true numbers [n, targets].
        outputs: predicted numbers [n, targets].
        names: of the numbers.
    """
    errors = outputs.astype(np.float64) - targets
    points = np.linspace(0, len(targets) - 1, min(len(targets), _POINTS)).astype(np.int64)
    count = min(len(names), _TARGETS)
    figure = style.new_figure(10, 0.9 + 3.6 * count, QUESTION, _answer(errors, names))
    rows = []
    for number, (left, right) in enumerate(figure.subplots(count, 2, squeeze=False)):
        name = style.shortened(names[number], 30)
        style.plain_axes(left, f"predicted {name}", "predicted - true")
        left.plot(
            outputs[points, number], errors[points, number], "o", color=style.BLUE, markersize=3, alpha=0.35, markeredgewidth=0
        )
        left.axhline(0, color=style.GREY, linewidth=1, linestyle="--")
        counts, edges = np.histogram(errors[:, number], _BINS)
        style.plain_axes(right, f"predicted - true {name}", "rows")
        right.stairs(counts, edges, fill=True, color=style.SKY)
        right.axvline(0, color=style.GREY, linewidth=1, linestyle="--")
        rows += [(names[number], *bin_) for bin_ in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)]
    return Drawing(figure, ("target", "error_from", "error_to", "rows"), rows)


def _answer(errors: npt.NDArray[np.float64], names: Sequence[str]) -> str:
    parts = []
    for name, mean, deviation in zip(names, errors.mean(axis=0), errors.std(axis=0), strict=True):
        direction = "too large" if mean > 0 else "too small"
        parts.append(f"{style.shortened(name, 20)}: {abs(mean):.3g} {direction} on average, standard deviation {deviation:.3g}")
    return ";  ".join(parts[:2])
