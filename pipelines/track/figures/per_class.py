"""Which classes are hard? Precision, recall and support of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.confusion_matrix import confusion_matrix
from pipelines.track.figures.style import Drawing

QUESTION = "Which classes are hard?"
# Nobody would read more; the data has all classes.
_SHOWN = 30


def draw(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], class_names: Sequence[str]) -> Drawing:
    """Precision and recall as two points per class, lowest F1 score first; the support is at the right.

    A class that was never predicted has precision 0, one without rows has recall 0.

    Args:
        labels: true class index [n].
        probabilities: [n, classes].
        class_names: by class index.
    """
    counts = confusion_matrix(labels, probabilities)
    correct, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = correct / np.maximum(predicted, 1), correct / np.maximum(support, 1)
    f1 = 2 * correct / np.maximum(predicted + support, 1)
    hardest_first = np.argsort(f1, kind="stable")
    shown = hardest_first[:_SHOWN]
    figure = style.new_figure(8.2, 1.7 + 0.32 * len(shown), QUESTION, _answer(f1, class_names, len(shown)))
    axes = figure.subplots()
    positions = np.arange(len(shown))
    axes.hlines(
        positions, np.minimum(precision, recall)[shown], np.maximum(precision, recall)[shown], color=style.GREY, linewidth=1.2
    )
    axes.plot(precision[shown], positions, "o", color=style.BLUE, markersize=6, label="precision: correct among those predicted")
    axes.plot(recall[shown], positions, "D", color=style.ORANGE, markersize=5, label="recall: found among those of the class")
    style.plain_axes(axes, "fraction")
    axes.set_yticks(positions, [style.shortened(class_names[index], 18) for index in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.02), min(high, 1.002))
    for position, index in zip(positions, shown, strict=True):
        axes.annotate(
            f"{support[index]:,} rows",
            (1.01, position),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=style.SMALL,
            color=style.GREY,
        )
    style.legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    rows = [(class_names[index], precision[index], recall[index], f1[index], int(support[index])) for index in range(len(counts))]
    return Drawing(figure, ("class", "precision", "recall", "f1", "support"), rows)


def _answer(f1: npt.NDArray[np.float64], class_names: Sequence[str], shown: int) -> str:
    hardest, easiest = int(f1.argmin()), int(f1.argmax())
    answer = (
        f"F1 score from {f1[hardest]:.4f} ({style.shortened(class_names[hardest], 20)}) to {f1[easiest]:.4f} "
        f"({style.shortened(class_names[easiest], 20)}), mean {f1.mean():.4f}"
    )
    return answer if shown == len(f1) else f"{answer};  the {shown} hardest of {len(f1)} classes"
