"""Metrics of training, validation and test. One that is added here appears as `train/NAME`, `validation/NAME` and `test/NAME`."""

from collections.abc import Callable

import keras
import tensorflow as tf

METRICS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {"accuracy": keras.metrics.sparse_categorical_accuracy}
"""By name: labels [batch] int and probabilities [batch, classes] to a value per row [batch] float; the metric is the mean over
rows."""
