"""What a task is: everything that depends on whether classes or numbers are predicted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.data.table.schema import Task as TaskName
from pipelines.tasks.metric import Metric
from pipelines.track.figures.style import Drawing
from pipelines.track.rundir.figure_data import Predictions


@dataclass(frozen=True)
class FigureContext:
    """What figures of predictions need besides these."""

    names: Sequence[str]
    """Names of the classes, or of the numbers that are predicted."""
    value_range: tuple[float, float]
    """Smallest and largest possible value of an input."""


@dataclass(frozen=True)
class TaskFigure:
    """A figure that needs nothing but predictions."""

    question: str
    draw: Callable[[Predictions, FigureContext], Drawing]
    needs_pictures: bool = False


class PairedTest(Protocol):
    """The comparison of two models by their predictions for the same rows."""

    @property
    def rows(self) -> int: ...

    @property
    def first_is_better(self) -> bool: ...

    @property
    def p_value(self) -> float:
        """Two-sided; 1 if nothing speaks against the models being equally good."""

    @property
    def facts(self) -> dict[str, str]:
        """The figures behind it, of the first model as challenger and the second as champion."""

    @property
    def counts(self) -> str:
        """On how many rows each is better, to follow "of N rows"."""

    @property
    def scores(self) -> str:
        """How well each predicts, the first before the second."""

    @property
    def test_name(self) -> str: ...


class Task(Protocol):
    """One of several classes, or numbers. Targets are class indices [n] int32, or numbers [n, targets] float32 in source units;
    outputs are probabilities [n, classes], or numbers [n, targets]."""

    name: TaskName
    output_layer: str
    """Name of the networks' last layer."""
    activation: str
    metrics: tuple[Metric, ...]
    """The first one is shown where there is room for one, and decides which of two models is better."""
    losses: tuple[str, ...]
    """Keras' names of the losses that fit. The first is the default."""
    figures: ClassVar[Mapping[str, TaskFigure]]
    """By name, in reading order."""

    def row_losses(
        self, loss: str, targets: npt.NDArray[Any], outputs: npt.NDArray[Any], deviations: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        """The loss of each row [n], as Keras computes it.

        Args:
            loss: one of `losses`.
            targets, outputs: see the class.
            deviations: standard deviation of each number among the training rows, by which errors are divided.
        """

    def confidence_of_mistakes(self, targets: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """How sure the network is of each prediction that is wrong; 0 where it is right, or cannot be wrong [n]."""

    def caption(self, target: Any, names: Sequence[str]) -> str:
        """A row's target as text, by the names of classes or numbers."""

    def more_metrics(self, predictions: Predictions) -> dict[str, float]:
        """Metrics that need all predictions at once, by name."""

    def pair_sums(
        self, targets: npt.NDArray[Any], first: npt.NDArray[Any], second: npt.NDArray[Any], deviations: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        """What `compared` needs of some rows, from the outputs of two models; may be added up."""

    def compared(self, sums: npt.NDArray[np.float64]) -> PairedTest:
        """The comparison of two models, from the sums over all rows."""
