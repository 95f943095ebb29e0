"""Which classes are confused with which? Counts and rates of every pair of true and predicted class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "Which classes are confused with which?"
# With more classes the cells have no room for text.
_MAX_CLASSES_WITH_TEXT = 20


def confusion_matrix(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Counts [classes, classes]: row is the true class, column the predicted one.

    Args:
        labels: true class index [n].
        probabilities: [n, classes].
    """
    classes = probabilities.shape[1]
    pairs = labels.astype(np.int64) * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def draw(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], class_names: Sequence[str]) -> Drawing:
    """Each cell shows its count and its percentage of the true class, which determines the color.

    Args:
        labels: true class index [n].
        probabilities: [n, classes].
        class_names: by class index.
    """
    counts = confusion_matrix(labels, probabilities)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    figure = style.new_figure(8.2, 8.0, QUESTION, _answer(counts, rates, class_names))
    axes = figure.subplots()
    # Mistakes are rare: the square root makes a rate of 1 % visible beside one of 99 %.
    axes.imshow(np.sqrt(rates), cmap="Blues", vmin=0, vmax=1.1)
    if classes <= _MAX_CLASSES_WITH_TEXT:
        size = min(style.NORMAL, 100 / classes)
        for row, column in np.argwhere(counts):
            text = f"{counts[row, column]:,}\n{_percent(rates[row, column])}"
            colour = "white" if rates[row, column] > 0.4 else style.INK
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.3)
    step = -(-classes // 30)
    axes.set_xticks(range(0, classes, step), [style.shortened(name, 12) for name in class_names[::step]])
    axes.set_yticks(range(0, classes, step), [style.shortened(name, 12) for name in class_names[::step]])
    style.plain_axes(axes, "predicted", "true")
    axes.grid(False)
    if max(map(len, class_names)) > 3:
        axes.tick_params(axis="x", rotation=90)
    rows = [
        (class_names[row], class_names[column], int(counts[row, column]), rates[row, column])
        for row, column in np.argwhere(counts).tolist()
    ]
    return Drawing(figure, ("true", "predicted", "count", "rate"), rows)


def _percent(rate: float) -> str:
    percent = 100 * rate
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def _answer(counts: npt.NDArray[np.int64], rates: npt.NDArray[np.float64], class_names: Sequence[str]) -> str:
    mistakes = counts - np.diag(np.diag(counts))
    total = int(counts.sum())
    if not mistakes.any():
        return f"none: all {total:,} rows are correct"
    row, column = divmod(int(mistakes.argmax()), len(mistakes))
    return (
        f"{mistakes.sum():,} of {total:,} rows are wrong;  most often {style.shortened(class_names[row], 20)} is mistaken for "
        f"{style.shortened(class_names[column], 20)} ({mistakes[row, column]:,} times, {_percent(rates[row, column])})"
    )
