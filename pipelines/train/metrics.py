"""The task's metrics (`pipelines.tasks`) as Keras computes them during an epoch, with totals that can be summed over ranks."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipelines.tasks.metric import Metric, Totals, flat
from pipelines.train.collectives.horovod import allreduce_mean
from pipelines.train.targets import TargetRules


class TaskMetric(keras.metrics.Metric):
    """One metric over the batches of an epoch.

    Args:
        metric: the metric.
        rules: task, and scale of the targets.
    """

    def __init__(self, metric: Metric, rules: TargetRules) -> None:
        super().__init__(name=metric.name)
        self.metric = metric
        self._rules = rules
        shapes = metric.sums(np, *rules.no_rows, np.zeros(0))
        self._sums = {
            # In float32 a count of rows would stop at 2^24.
            name: self.add_variable(shape=np.shape(total), initializer="zeros", dtype="float64", name=name)
            for name, total in shapes.items()
        }

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        targets, outputs = self._rules.in_source_units(y_true, y_pred)
        if sample_weight is None:
            weights = keras.ops.ones(keras.ops.shape(outputs)[:1], "float64")
        else:
            weights = keras.ops.cast(keras.ops.reshape(sample_weight, (-1,)), "float64")
        for name, total in self.metric.sums(keras.ops, targets, outputs, weights).items():
            self._sums[name].assign(self._sums[name] + total)

    def result(self) -> tf.Tensor:
        totals = {name: keras.ops.convert_to_tensor(total) for name, total in self._sums.items()}
        return keras.ops.cast(keras.ops.mean(self.metric.value(keras.ops, totals)), "float32")

    @property
    def needs_totals(self) -> bool:
        """Whether the mean over ranks with equally many rows is not the value for all rows."""
        return self._rules.manifest.weighted or not self.metric.is_mean

    def totals(self) -> dict[str, float]:
        """The sums of this rank so far, as plain numbers by name (`Totals.by_name`)."""
        found: dict[str, float] = {}
        for name, total in self._sums.items():
            found |= flat(self.metric, name, keras.ops.convert_to_numpy(total))
        return found


def keras_metrics(rules: TargetRules) -> list[keras.metrics.Metric]:
    """The metrics for `compile`."""
    return [TaskMetric(metric, rules) for metric in rules.metrics]


def task_metrics(model: keras.Model) -> list[TaskMetric]:
    """The task's metrics of a compiled model."""
    return list(_found(model.metrics))


def _found(metrics: Sequence[keras.metrics.Metric]) -> Iterator[TaskMetric]:
    for metric in metrics:
        if isinstance(metric, TaskMetric):
            yield metric
        else:
            yield from _found(getattr(metric, "metrics", ()))


def allreduce_totals(model: keras.Model) -> None:
    """Replace what each metric of a model has summed up by its mean over ranks. Metrics over all ranks stay as they are."""
    variables = model.metrics_variables
    means = allreduce_mean([tf.cast(tf.convert_to_tensor(variable.value), tf.float64) for variable in variables])
    for variable, mean in zip(variables, means, strict=True):
        variable.assign(tf.cast(mean, variable.dtype))


def value_of(metric: Metric, by_name: dict[str, float]) -> float:
    """The metric of the rows that the totals are of."""
    totals = Totals([metric])
    totals.merge({name: value for name, value in by_name.items() if name.startswith(f"{metric.name}/")})
    return totals.values()[metric.name]
