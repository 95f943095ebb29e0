"""Can its confidence be trusted? Accuracy by confidence, and the expected calibration error.

Reliability diagram and error as defined by Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks",
arXiv:1706.04599: rows are sorted into bins of equal width by the probability of the predicted class, and the error is the mean
over rows of the difference between the accuracy and the mean confidence of their bin.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "Can its confidence be trusted?"
# As in the paper.
BINS = 15


class Bins(NamedTuple):
    """One entry per bin; means of an empty bin are 0."""

    rows: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]


def binned(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], bins: int = BINS) -> Bins:
    """Rows, mean confidence and accuracy of each bin ((b-1)/bins, b/bins].

    Args:
        labels: true class index [n].
        probabilities: [n, classes].
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    indices = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(indices, minlength=bins)
    counted = np.maximum(rows, 1)
    return Bins(
        rows,
        np.bincount(indices, weights=confidence, minlength=bins) / counted,
        np.bincount(indices, weights=correct, minlength=bins) / counted,
    )


def expected_calibration_error(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], bins: int = BINS) -> float:
    """Expected calibration error, from 0 (perfect) to 1. Arguments as for `binned`."""
    counts, confidence, accuracy = binned(labels, probabilities, bins)
    return float(np.sum(counts * np.abs(accuracy - confidence)) / max(int(counts.sum()), 1))


def draw(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> Drawing:
    """Accuracy against confidence above, number of rows by confidence below.

    Args:
        labels: true class index [n].
        probabilities: [n, classes].
    """
    binning = binned(labels, probabilities)
    error = expected_calibration_error(labels, probabilities)
    confidence = float(probabilities.max(axis=1).mean())
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    verdict = "underconfident" if confidence < accuracy else "overconfident"
    answer = (
        f"expected calibration error {100 * error:.2f} %;  mean confidence {100 * confidence:.2f} %, accuracy "
        f"{100 * accuracy:.2f} %: {verdict if error > 0.005 else 'well calibrated'}"
    )
    figure = style.new_figure(7.2, 6.6, QUESTION, answer)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.arange(BINS + 1) / BINS
    filled = binning.rows > 0
    style.plain_axes(above, "", "accuracy")
    above.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", linewidth=1, label="perfect calibration")
    above.bar(
        edges[:-1][filled],
        binning.accuracy[filled],
        width=1 / BINS,
        align="edge",
        color=style.SKY,
        edgecolor="white",
        label="accuracy",
    )
    above.plot(
        binning.confidence[filled],
        binning.accuracy[filled],
        "o-",
        color=style.BLUE,
        markersize=4,
        linewidth=1.2,
        label="bin means",
    )
    above.vlines(
        binning.confidence[filled],
        np.minimum(binning.confidence, binning.accuracy)[filled],
        np.maximum(binning.confidence, binning.accuracy)[filled],
        color=style.RED,
        linewidth=2,
        label="error",
    )
    above.set_xlim(0, 1)
    above.set_ylim(0, 1.02)
    style.legend(above, loc="upper left")
    style.plain_axes(below, "confidence: probability of the predicted class", "rows")
    below.bar(edges[:-1], binning.rows, width=1 / BINS, align="edge", color=style.BLUE, edgecolor="white")
    below.set_yscale("symlog")
    below.set_ylim(bottom=0)
    rows = [
        (edges[index], edges[index + 1], int(binning.rows[index]), binning.confidence[index], binning.accuracy[index])
        for index in range(BINS)
    ]
    return Drawing(figure, ("above", "up_to", "rows", "mean_confidence", "accuracy"), rows)
