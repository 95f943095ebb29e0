"""Targets in training: classes and their weights, or numbers, which a network learns standardized.

Keras multiplies the loss of a row with its weight and divides the sum over a batch by the number of rows. All ranks have batches
of one size, so the mean of their gradients is that of the global batch, whatever the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines import tasks
from pipelines.config.training import TrainingConfig
from pipelines.data.table.schema import TableManifest
from pipelines.models.layers import CustomLoss, raw_input
from pipelines.tasks.metric import Metric
from pipelines.tasks.task import Task

Loss: TypeAlias = keras.losses.Loss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class TargetRules:
    """How the targets of a table are learned."""

    manifest: TableManifest
    loss: str | Loss
    """The loss that validation and test report: Keras' name, or a function that gives the loss of each row."""
    inner: CustomLoss | None = None
    """A loss on an inner layer's output, which is that of the training alone."""
    more_metrics: tuple[Metric, ...] = ()
    """Metrics of the user's."""

    @cached_property
    def task(self) -> Task:
        return tasks.of(self.manifest.spec.task)

    @cached_property
    def _has_classes(self) -> bool:
        return self.manifest.spec.task == "classification"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (*self.task.metrics, *self.more_metrics)

    def row_losses(self, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """The loss of each row [n], without label smoothing and class weights."""
        loss = keras.losses.get(self.loss) if isinstance(self.loss, str) else self.loss
        return loss(self.standardized(targets), outputs)

    def standardized(self, targets: Any) -> Any:
        """Targets as the network learns them; class indices are left."""
        if self._has_classes:
            return targets
        means, deviations = (np.asarray(values, np.float32) for values in self._scale)
        return (keras.ops.cast(targets, "float32") - means) / deviations

    def in_source_units(self, targets: Any, outputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Targets of any dtype and outputs of the network in training, for metrics: float64, but class indices [n] int32."""
        if self._has_classes:
            return keras.ops.cast(keras.ops.reshape(targets, (-1,)), "int32"), keras.ops.cast(outputs, "float64")
        means, deviations = self._scale
        return keras.ops.cast(targets, "float64"), keras.ops.cast(outputs, "float64") * deviations + means

    def restored(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Outputs of the network in training as the logged model gives them."""
        if self._has_classes:
            return outputs
        means, deviations = self._scale
        return (outputs * deviations + means).astype(np.float32)

    @property
    def no_rows(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Targets and outputs of no rows, in the form of `in_source_units`."""
        outputs = np.zeros((0, self.manifest.num_outputs))
        return np.zeros(0, np.int32) if self._has_classes else outputs, outputs

    @property
    def _scale(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return np.asarray(self.manifest.target_means), np.asarray(self.manifest.target_deviations)


def training_loss(loss: Loss, training: TrainingConfig, rules: TargetRules) -> Loss:
    """A loss for `compile`, which takes targets as the table holds them and counts each class by its weight.

    Args:
        loss: of targets as the network learns them, and its outputs; gives the loss of each row.
        training: class weights.
        rules: what the targets are.
    """
    if rules.task.name == "regression":
        return _RowLoss(lambda targets, outputs: _of_rows(loss, rules.standardized(targets), outputs))
    weights = class_weights(training, rules.manifest)
    if weights is None:
        return loss

    def weighted(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        # Keras casts labels to the network's dtype.
        classes = keras.ops.cast(keras.ops.reshape(targets, (-1,)), "int32")
        return keras.ops.take(weights, classes) * _of_rows(loss, targets, outputs)

    return _RowLoss(weighted)


def class_weights(training: TrainingConfig, manifest: TableManifest) -> npt.NDArray[np.float32] | None:
    """The weight of each class [classes]; None if all are 1. With `balanced`, a class without training rows has weight 0."""
    if training.class_weights == "none":
        return None
    if training.class_weights != "balanced":
        return np.asarray(training.class_weights, np.float32)
    counts = np.asarray(manifest.splits["train"].rows_per_label)
    return np.where(counts, counts.sum() / (len(counts) * np.maximum(counts, 1)), 0).astype(np.float32)


def in_source_units(network: keras.Model, manifest: TableManifest) -> keras.Model:
    """The network with the scale of the targets undone by a last layer. One that predicts classes is left as it is."""
    if manifest.spec.task == "classification":
        return network
    inputs = raw_input(manifest.spec)
    units = keras.layers.Rescaling(
        list(manifest.target_deviations), list(manifest.target_means), dtype="float32", name="source_units"
    )
    return keras.Model(inputs, units(network(inputs)), name=network.name)


class _RowLoss(keras.losses.Loss):
    """A loss from a function that gives the loss of each row; the name of the class is not saved, as no training is."""

    def __init__(self, of_rows: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> None:
        super().__init__(name="loss")
        self._of_rows = of_rows

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return self._of_rows(y_true, y_pred)


def _of_rows(loss: Loss, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    # A loss object would take the mean.
    return loss.call(targets, outputs) if isinstance(loss, keras.losses.Loss) else loss(targets, outputs)
