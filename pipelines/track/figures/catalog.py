"""The figures of a run, and how each is drawn from the data in the run folder."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines import tasks
from pipelines.data.table.schema import TableManifest
from pipelines.data.table.schema import Task as TaskName
from pipelines.tasks.task import FigureContext
from pipelines.track.figures import examples, first_layer, learning_curves, timeline
from pipelines.track.figures.style import Drawing
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.figure_data import Predictions


def questions(task: TaskName) -> dict[str, str]:
    """The question of each figure of a run, by the figure's name, in reading order."""
    return {
        "learning_curves": learning_curves.QUESTION,
        **{name: figure.question for name, figure in tasks.of(task).figures.items()},
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
    value_range = manifest.spec.value_range
    figures: dict[str, Callable[[], Drawing]] = {}
    if history:
        metric = tasks.of(manifest.spec.task).metrics[0]
        figures["learning_curves"] = lambda: learning_curves.draw(history, title, metric)
    if figure_data.has_predictions(run_dir):
        figures |= of_predictions(functools.cache(lambda: figure_data.load_predictions(run_dir)), manifest)
    if figure_data.has(run_dir, figure_data.FIRST_LAYER):
        figures["first_layer"] = lambda: first_layer.draw(
            **figure_data.load(run_dir, figure_data.FIRST_LAYER), value_range=value_range
        )
    if figure_data.has(run_dir, figure_data.EXAMPLES):
        figures["examples"] = lambda: _examples(run_dir, manifest)
    return figures


def of_predictions(test: Callable[[], Predictions], manifest: TableManifest) -> dict[str, Callable[[], Drawing]]:
    """Functions that draw the figures that need nothing but predictions.

    Args:
        test: returns the predictions; called when a figure is drawn.
        manifest: manifest of the table.
    """
    spec = manifest.spec
    context = FigureContext(_names(manifest), spec.value_range)
    shown = {name: figure for name, figure in tasks.of(spec.task).figures.items() if spec.is_picture or not figure.needs_pictures}
    return {name: functools.partial(lambda draw: draw(test(), context), figure.draw) for name, figure in shown.items()}


def _names(manifest: TableManifest) -> Sequence[str]:
    return manifest.class_names or manifest.target_names


def _examples(run_dir: Path, manifest: TableManifest) -> Drawing:
    data = figure_data.load(run_dir, figure_data.EXAMPLES)
    # The name in earlier versions.
    targets = data["targets"] if "targets" in data else data["labels"]
    names = _names(manifest)
    captions = [tasks.of(manifest.spec.task).caption(target, names) for target in targets[: examples.COUNT]]
    images = data["images"][: len(captions)]
    return examples.draw(images, np.arange(len(captions)), captions, manifest.spec.value_range)
