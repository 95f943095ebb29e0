"""All figures that a set of predictions can tell, whoever made it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from pipelines.track.figures import calibration, confusion_matrix, per_class, worst_mistakes
from pipelines.track.figures.style import Drawing


def drawings(
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    class_names: Sequence[str],
    images: npt.NDArray[Any] | None = None,
    value_range: tuple[float, float] = (0.0, 255.0),
) -> dict[str, Callable[[], Drawing]]:
    """What to call for each figure, by the name of its file.

    Args:
        labels: true class index [n], n >= 1.
        probabilities: [n, classes].
        class_names: in the order of the indices.
        images: [n, height, width, channels] in source values; None leaves out the mistakes as images.
        value_range: smallest and largest possible value of an image.
    """
    found: dict[str, Callable[[], Drawing]] = {
        "confusion_matrix": lambda: confusion_matrix.draw(labels, probabilities, class_names),
        "per_class": lambda: per_class.draw(labels, probabilities, class_names),
        "calibration": lambda: calibration.draw(labels, probabilities),
    }
    if images is not None:
        found["worst_mistakes"] = lambda: worst_mistakes.draw(labels, probabilities, images, class_names, value_range)
    return found


def metrics(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> dict[str, float]:
    """What the predictions tell beside loss and accuracy, by its metric's name behind `test/`."""
    return {"calibration_error": calibration.expected_calibration_error(labels, probabilities)}
