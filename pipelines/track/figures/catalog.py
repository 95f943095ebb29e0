"""The figures of a run, and how each is drawn from the data in the run folder."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.data.table.schema import TableManifest
from pipelines.track.figures import (
    calibration,
    confusion_matrix,
    examples,
    first_layer,
    learning_curves,
    per_class,
    timeline,
    worst_mistakes,
)
from pipelines.track.figures.style import Drawing
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.figure_data import Predictions

# In reading order.
QUESTIONS: dict[str, str] = {
    "learning_curves": learning_curves.QUESTION,
    "confusion_matrix": confusion_matrix.QUESTION,
    "per_class": per_class.QUESTION,
    "worst_mistakes": worst_mistakes.QUESTION,
    "calibration": calibration.QUESTION,
    "first_layer": first_layer.QUESTION,
    "examples": examples.QUESTION,
    "timeline": timeline.QUESTION,
}


def drawings(
    run_dir: Path,
    manifest: TableManifest,
    history: Sequence[Mapping[str, float]],
    title: str,
) -> dict[str, Callable[[], Drawing]]:
    """Functions that draw the figures, by name. Figures without data are left out.

    The timeline is not included: the run folder does not hold the phases of the driver.

    Args:
        run_dir: run folder with `pipelines.track.rundir.figure_data`.
        manifest: manifest of the table.
        history: metrics of each epoch.
        title: identifies the run.
    """
    names, value_range = manifest.class_names, manifest.spec.value_range
    figures: dict[str, Callable[[], Drawing]] = {}
    if history:
        figures["learning_curves"] = lambda: learning_curves.draw(history, title)
    if figure_data.has_predictions(run_dir):
        test = functools.cache(lambda: figure_data.load_predictions(run_dir))
        figures |= of_predictions(test, names, value_range)
    if figure_data.has(run_dir, figure_data.FIRST_LAYER):
        figures["first_layer"] = lambda: first_layer.draw(
            **figure_data.load(run_dir, figure_data.FIRST_LAYER), value_range=value_range
        )
    if figure_data.has(run_dir, figure_data.EXAMPLES):
        figures["examples"] = lambda: examples.draw(
            **figure_data.load(run_dir, figure_data.EXAMPLES), class_names=names, value_range=value_range
        )
    return figures


def of_predictions(
    test: Callable[[], Predictions], names: Sequence[str], value_range: tuple[float, float]
) -> dict[str, Callable[[], Drawing]]:
    """Functions that draw the figures that need nothing but predictions.

    Args:
        test: returns the predictions; called when a figure is drawn.
        names: names of the classes.
        value_range: smallest and largest possible value of an image.
    """
    return {
        "confusion_matrix": lambda: confusion_matrix.draw(test().labels, test().probabilities, names),
        "per_class": lambda: per_class.draw(test().labels, test().probabilities, names),
        "worst_mistakes": lambda: _worst_mistakes(test(), names, value_range),
        "calibration": lambda: calibration.draw(test().labels, test().probabilities),
    }


def _worst_mistakes(test: Predictions, names: Sequence[str], value_range: tuple[float, float]) -> Drawing:
    return worst_mistakes.draw(
        test.labels[test.worst],
        test.probabilities[test.worst],
        test.worst_images,
        names,
        value_range,
        row_numbers=test.rows[test.worst],
        mistakes=int((test.probabilities.argmax(axis=1) != test.labels).sum()),
    )
