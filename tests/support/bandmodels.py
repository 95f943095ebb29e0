"""Models for the images of `synthetic` that load instantly: they need only MLflow, no TensorFlow."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

SHAPE, CLASSES = (12, 12, 1), 4


class BandModel(mlflow.pyfunc.PythonModel):
    """Predicts the class of the brightest band of rows. `blind` classes are mistaken for the class before them."""

    def __init__(self, blind=(), sharpness=0.05):
        self.blind = blind
        self.sharpness = sharpness

    def predict(self, context, model_input, params=None):
        bands = np.asarray(model_input, float).reshape(-1, CLASSES, SHAPE[0] // CLASSES * SHAPE[1]).mean(axis=2)
        for label in self.blind:
            bands[:, label - 1] = np.maximum(bands[:, label - 1], bands[:, label] + 1)
        powers = np.exp(self.sharpness * (bands - bands.max(axis=1, keepdims=True)))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def save(folder: Path, *, blind=(), metadata=None, shape=SHAPE) -> Path:
    """Write an MLflow model folder."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, CLASSES))]),
    )
    about = {"labels": [0, 1, 2, 3], "class_names": ["zero", "one", "two", "three"], "value_range": [0.0, 255.0]}
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=BandModel(blind),
        signature=signature,
        metadata=about if metadata is None else metadata,
        pip_requirements=["mlflow"],
    )
    return folder
