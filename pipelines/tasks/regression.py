"""Regression: one or several numbers.

Networks learn numbers that were standardized by mean and standard deviation of the training rows. Losses are of standardized
numbers, metrics of numbers in source units.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipelines.data.table.schema import Task as TaskName
from pipelines.tasks.metric import Metric, mean_over_rows, ratio, ratio_of_sums
from pipelines.tasks.paired_errors import PairedErrors
from pipelines.tasks.task import TaskFigure
from pipelines.track.figures import predicted_against_true, residuals
from pipelines.track.rundir.figure_data import Predictions


def _mean_square(ops: Any, targets: Any, outputs: Any) -> Any:
    return ops.mean(ops.square(ops.subtract(outputs, targets)), axis=-1)


def _mean_absolute(ops: Any, targets: Any, outputs: Any) -> Any:
    return ops.mean(ops.abs(ops.subtract(outputs, targets)), axis=-1)


def _square_sums(ops: Any, targets: Any, outputs: Any, weights: Any) -> dict[str, Any]:
    return {"total": ops.sum(ops.multiply(weights, _mean_square(ops, targets, outputs))), "weight": ops.sum(weights)}


def _variance_sums(ops: Any, targets: Any, outputs: Any, weights: Any) -> dict[str, Any]:
    by_row = ops.reshape(weights, (-1, 1))
    return {
        "residual": ops.sum(ops.multiply(by_row, ops.square(ops.subtract(outputs, targets))), axis=0),
        "square": ops.sum(ops.multiply(by_row, ops.square(targets)), axis=0),
        "total": ops.sum(ops.multiply(by_row, targets), axis=0),
        "weight": ops.sum(weights),
    }


def _explained(ops: Any, total: Mapping[str, Any]) -> Any:
    """R2: the mean over numbers of the share of the variance that is explained; 0 for a number that is always the same."""
    variance = ops.subtract(total["square"], ratio(ops, ops.square(total["total"]), total["weight"]))
    shares = ops.subtract(1.0, ratio(ops, total["residual"], variance))
    return ops.mean(ops.where(ops.greater(variance, 0), shares, ops.zeros_like(shares)))


class Regression:
    """See `pipelines.tasks.task.Task`."""

    name: TaskName = "regression"
    output_layer = "predictions"
    activation = "linear"
    metrics: tuple[Metric, ...] = (
        Metric(
            name="rmse",
            sums=_square_sums,
            value=lambda ops, total: ops.sqrt(ratio_of_sums(ops, total)),
            label="RMSE",
        ),
        mean_over_rows("mae", _mean_absolute, label="MAE"),
        Metric(name="r2", sums=_variance_sums, value=_explained, label="R2", larger_is_better=True),
    )
    losses: tuple[str, ...] = ("mean_squared_error", "mean_absolute_error", "huber")
    figures: ClassVar[Mapping[str, TaskFigure]] = {
        "predicted_against_true": TaskFigure(
            predicted_against_true.QUESTION,
            lambda test, context: predicted_against_true.draw(test.targets, test.outputs, context.names),
        ),
        "residuals": TaskFigure(
            residuals.QUESTION, lambda test, context: residuals.draw(test.targets, test.outputs, context.names)
        ),
    }

    def row_losses(
        self, loss: str, targets: npt.NDArray[Any], outputs: npt.NDArray[Any], deviations: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        errors = np.abs(outputs.astype(np.float64) - targets) / np.asarray(deviations)
        if loss == "mean_absolute_error":
            of_error = errors
        elif loss == "huber":
            # With Keras' default delta of 1.
            of_error = np.where(errors <= 1, errors**2 / 2, errors - 0.5)
        else:
            of_error = errors**2
        losses: npt.NDArray[np.float64] = of_error.mean(axis=1)
        return losses

    def confidence_of_mistakes(self, targets: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.zeros(len(targets))

    def caption(self, target: Any, names: Sequence[str]) -> str:
        return ", ".join(f"{value:.4g}" for value in target)

    def more_metrics(self, predictions: Predictions) -> dict[str, float]:
        return {}

    def pair_sums(
        self, targets: npt.NDArray[Any], first: npt.NDArray[Any], second: npt.NDArray[Any], deviations: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        """Rows, squared errors of both models, squares of their differences, and rows on which each is closer."""
        one, other = (self.row_losses(self.losses[0], targets, outputs, deviations) for outputs in (first, second))
        difference = one - other
        sums = [len(one), one.sum(), other.sum(), (difference**2).sum(), (difference < 0).sum(), (difference > 0).sum()]
        return np.asarray(sums, np.float64)

    def compared(self, sums: npt.NDArray[np.float64]) -> PairedErrors:
        rows, first, second, squared, first_closer, second_closer = sums.tolist()
        return PairedErrors(
            rows=int(rows),
            first=first,
            second=second,
            squared_difference=squared,
            first_closer=int(first_closer),
            second_closer=int(second_closer),
        )
