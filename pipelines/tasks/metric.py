"""Metrics that are exact over any division of the rows: sums over the rows of each batch, and a value of the totals.

A metric is written once. Training computes it with Keras' operations, evaluation and Spark's workers with NumPy, and totals are
added over batches, ranks and partitions before the value is taken, so that the root of a mean or a ratio is that of all rows.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any
"""An array of the library that `ops` stands for."""
Sums = Callable[[Any, Array, Array, Array], Mapping[str, Array]]
"""Function of `ops` (NumPy or `keras.ops`), targets, outputs and weights [n] of a batch: sums over its rows, [] or
[targets]. Written with functions of `ops`, which convert dtypes, and not with operators."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how well a network predicts some rows."""

    name: str
    sums: Sums
    value: Callable[[Any, Mapping[str, Array]], Array]
    """Function of `ops` and the totals of `sums` over all rows: one number, [] or [1]."""
    label: str
    """Its name in a sentence."""
    larger_is_better: bool = False
    in_percent: bool = False
    is_mean: bool = False
    """It is a mean over rows, so that the mean over equally large parts is that of the whole."""

    def shown(self, value: float) -> str:
        return f"{100 * value:.2f} %" if self.in_percent else plain(value)


def mean_over_rows(name: str, of_rows: Callable[[Any, Array, Array], Array], **properties: Any) -> Metric:
    """A metric that is the mean over rows, by their weights.

    Args:
        name: its name.
        of_rows: function of `ops`, targets and outputs: a value for each row [n].
        properties: other fields of the metric.
    """

    def sums(ops: Any, targets: Array, outputs: Array, weights: Array) -> dict[str, Array]:
        return {"total": ops.sum(ops.multiply(weights, of_rows(ops, targets, outputs))), "weight": ops.sum(weights)}

    return Metric(name=name, sums=sums, value=ratio_of_sums, is_mean=True, **properties)


def ratio_of_sums(ops: Any, total: Mapping[str, Array]) -> Array:
    """The sums `total` over `weight`; 0 without rows."""
    return ratio(ops, total["total"], total["weight"])


def ratio(ops: Any, numerator: Array, denominator: Array) -> Array:
    """Their quotient; 0 where the denominator is 0."""
    is_zero = ops.equal(denominator, 0)
    return ops.where(
        is_zero, ops.zeros_like(numerator), ops.divide(numerator, ops.where(is_zero, ops.ones_like(denominator), denominator))
    )


class Totals:
    """The sums of metrics over some rows, as plain numbers by name, which any process can add up."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.by_name: dict[str, float] = {}
        """`METRIC/SUM/POSITION` to the sum."""
        self._metrics = metrics

    def add(self, targets: npt.NDArray[Any], outputs: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None) -> None:
        """Add the rows of a batch.

        Args:
            targets: class index [n], or numbers [n, targets] in source units.
            outputs: probabilities [n, classes], or numbers [n, targets] in source units.
            weights: [n]; None for 1 each.
        """
        outputs = outputs.astype(np.float64)
        weights = np.ones(len(outputs)) if weights is None else weights.astype(np.float64)
        targets = targets if targets.dtype.kind in "iu" else targets.astype(np.float64)
        for metric in self._metrics:
            for name, total in metric.sums(np, targets, outputs, weights).items():
                self.merge(flat(metric, name, total))

    def merge(self, by_name: Mapping[str, float]) -> None:
        """Add the totals of other rows."""
        for name, value in by_name.items():
            self.by_name[name] = self.by_name.get(name, 0.0) + value

    def values(self) -> dict[str, float]:
        """The metrics of all rows added, by name; empty without any."""
        grouped: dict[str, dict[str, list[float]]] = {}
        for key, value in self.by_name.items():
            metric, name, _ = key.split("/")
            grouped.setdefault(metric, {}).setdefault(name, []).append(value)
        return {
            metric.name: float(
                np.mean(metric.value(np, {name: np.asarray(values) for name, values in grouped[metric.name].items()}))
            )
            for metric in self._metrics
            if metric.name in grouped
        }


def flat(metric: Metric, name: str, total: Any) -> dict[str, float]:
    """A sum of a metric as plain numbers by name."""
    return {f"{metric.name}/{name}/{position}": float(value) for position, value in enumerate(np.ravel(total))}


def plain(value: float) -> str:
    """A number of any size for a line of text."""
    return f"{value:.4f}" if math.isfinite(value) and (value == 0 or 1e-3 <= abs(value) < 1e4) else f"{value:.5g}"


def named(metrics: Iterable[Metric], name: str) -> Metric | None:
    return next((metric for metric in metrics if metric.name == name), None)
