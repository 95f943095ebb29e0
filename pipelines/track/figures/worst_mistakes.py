"""What does it get wrong with high confidence? The most confident mistakes, as images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "What does it get wrong with high confidence?"
COUNT = 25
_COLUMNS = 5


def find(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], count: int = COUNT) -> npt.NDArray[np.int64]:
    """Positions of at most `count` mistakes, the most confident first.

    Args:
        labels: true class index [n].
        probabilities: [n, classes].
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    confidence = probabilities[wrong].max(axis=1)
    worst: npt.NDArray[np.int64] = wrong[np.argsort(-confidence, kind="stable")[:count]]
    return worst


def draw(
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    images: npt.NDArray[Any],
    class_names: Sequence[str],
    value_range: tuple[float, float],
    row_numbers: npt.NDArray[Any] | None = None,
    mistakes: int | None = None,
) -> Drawing:
    """The worst mistakes with true label, prediction and confidence.

    Args:
        labels: true class index [n].
        probabilities: [n, classes].
        images: [n, height, width, channels] in source values.
        class_names: by class index.
        value_range: smallest and largest possible value of an image.
        row_numbers: number [n] of each row in its table, for the data; by default its position.
        mistakes: total number of mistakes, if the arguments hold only some of them.
    """
    worst = find(labels, probabilities)
    total = mistakes if mistakes is not None else int((probabilities.argmax(axis=1) != labels).sum())
    numbers = np.arange(len(labels)) if row_numbers is None else row_numbers
    predicted = probabilities.argmax(axis=1)
    lines = -(-max(len(worst), 1) // _COLUMNS)
    answer = f"the {len(worst)} most confident of {total:,} mistakes, by confidence" if len(worst) else "nothing: no mistakes"
    figure = style.new_figure(8.2, 0.9 + 1.8 * lines, QUESTION, answer)
    axes = figure.subplots()
    style.picture_axes(axes, _COLUMNS, lines * 1.22)
    rows = []
    for number, position in enumerate(worst):
        column, line = number % _COLUMNS, number // _COLUMNS * 1.22
        style.tile(axes, style.displayable(images[position], value_range), column, line + 0.26, cmap="gray", vmin=0, vmax=1)
        truth, guess = class_names[labels[position]], class_names[predicted[position]]
        confidence = float(probabilities[position, predicted[position]])
        name_length = 7
        axes.text(column, line + 0.22, f"true {style.shortened(truth, name_length)}", fontsize=style.SMALL, color=style.INK)
        axes.text(
            column + 0.92,
            line + 0.22,
            f"pred. {style.shortened(guess, name_length)}, {100 * confidence:.0f} %",
            fontsize=style.SMALL,
            color=style.RED,
            ha="right",
        )
        rows.append((int(numbers[position]), truth, guess, confidence, float(probabilities[position, labels[position]])))
    return Drawing(figure, ("row", "true", "predicted", "confidence", "probability_of_true"), rows)
