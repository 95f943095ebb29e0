"""Data for the figures of a trained network: its first kernels with their feature maps, and training examples."""

import logging
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipelines.data.stream.reader import Block
from pipelines.track.rundir import figure_data

_log = logging.getLogger(__name__)

# Images whose feature maps are shown, of distinct classes.
_IMAGES = 4


def save_figure_inputs(run_dir: Path, model: keras.Model, training: tf.data.Dataset, test: Block) -> None:
    """Write the data of the figures of first layer and examples (`pipelines.track.rundir.figure_data`).

    A failure costs the figure, not the run.

    Args:
        run_dir: the run folder.
        model: takes source values [n, height, width, channels]. Nothing is written for rows that are no pictures.
        training: training batches, augmented.
        test: some test rows, inputs and targets.
    """
    if test[0].ndim != 4:
        return
    try:
        images, targets, *_ = next(iter(training.take(1)))
        figure_data.save(run_dir, figure_data.EXAMPLES, images=images.numpy(), targets=targets.numpy())
        _save_first_layer(run_dir, model, test)
    except Exception:
        _log.warning("there will be no figure of the first layer or of the examples", exc_info=True)


def first_convolution(model: keras.Model) -> keras.layers.Layer | None:
    """The network's first two-dimensional convolution; None if it has none."""
    return next((layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)), None)


def _save_first_layer(run_dir: Path, model: keras.Model, test: Block) -> None:
    layer = first_convolution(model)
    if layer is None:
        return
    # Of each class, or of different numbers.
    _, distinct = np.unique(test[1].reshape(len(test[1]), -1)[:, 0], return_index=True)
    images = test[0][distinct[:_IMAGES]]
    feature_maps = keras.Model(model.inputs[0], layer.output)(images.astype(np.float32), training=False)
    figure_data.save(
        run_dir,
        figure_data.FIRST_LAYER,
        kernels=keras.ops.convert_to_numpy(layer.kernel),
        images=images,
        feature_maps=keras.ops.convert_to_numpy(feature_maps),
    )
