"""Models for the images of `synthetic` that load instantly: they need only MLflow, no TensorFlow."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from pipelines.data.table import row_hashes
from pipelines.data.table.row_hashes import TrainingRows

SHAPE, CLASSES = (12, 12, 1), 4
ABOUT = {
    "labels": [0, 1, 2, 3],
    "class_names": ["zero", "one", "two", "three"],
    "value_range": [0.0, 255.0],
    "source": "libsvm",
    "picture_form": "picture",
    "zero_based": False,
    "resize_pictures": False,
}
"""Metadata as Convoy logs it with a model."""


class BandModel(mlflow.pyfunc.PythonModel):
    """Predicts the class of the brightest band of rows. `blind` classes are mistaken for the class before them."""

    def __init__(self, blind=(), sharpness=0.05, order=range(CLASSES)):
        self.blind = blind
        self.sharpness = sharpness
        self.order = list(order)

    def predict(self, context, model_input, params=None):
        bands = np.asarray(model_input, float).reshape(-1, CLASSES, SHAPE[0] // CLASSES * SHAPE[1]).mean(axis=2)
        for label in self.blind:
            bands[:, label - 1] = np.maximum(bands[:, label - 1], bands[:, label] + 1)
        powers = np.exp(self.sharpness * (bands - bands.max(axis=1, keepdims=True)))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)[:, self.order]


def save(folder: Path, *, blind=(), metadata=None, shape=SHAPE, order=range(CLASSES), training_rows=None) -> Path:
    """Write an MLflow model folder.

    Args:
        folder: must not exist.
        blind: classes that the model mistakes.
        metadata: instead of `ABOUT`.
        shape: of its images.
        order: the band of each class.
        training_rows: the images [n, ...] that the model records as those that it was trained with.
    """
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, CLASSES))]),
    )
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=BandModel(blind, order=order),
        signature=signature,
        metadata=ABOUT if metadata is None else metadata,
        pip_requirements=["mlflow"],
    )
    if training_rows is not None:
        record = TrainingRows(np.unique(row_hashes.hash_images(training_rows)))
        (folder / row_hashes.FILE_NAME).write_bytes(record.to_bytes())
    return folder
