"""A model for the rows of `features` that loads instantly: it needs only MLflow, no TensorFlow."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from support.features import DEVIATIONS, MEANS

ABOUT = {
    "labels": [0, 1],
    "class_names": ["low", "high"],
    "value_range": [-30.0, 104_000.0],
    "range_was_read": True,
    "scaling": "standardize",
    "source": "libsvm",
    "picture_form": "unknown",
    "zero_based": False,
    "resize_pictures": False,
}
OF_NUMBERS = {"task": "regression", "labels": [], "class_names": [], "target_names": ["target"], "target_deviations": [3.7]}
"""Metadata as Convoy logs it with a model, and what is different for one of numbers."""


class LinearModel(mlflow.pyfunc.PythonModel):
    """Predicts a row's number, or whether it is above its mean."""

    def __init__(self, numbers=False):
        self.numbers = numbers

    def predict(self, context, model_input, params=None):
        standard = ((np.asarray(model_input, float) - MEANS) / np.where(DEVIATIONS == 0, 1, DEVIATIONS)) @ [2, -1, 3, 0, 0]
        if self.numbers:
            return (standard + 50).astype(np.float32)[:, None]
        high = 1 / (1 + np.exp(-standard))
        return np.stack([1 - high, high], axis=1).astype(np.float32)


def save(folder: Path, *, numbers: bool = False) -> Path:
    """Write an MLflow model folder, which must not exist. With `numbers`, of a regression."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 5))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1 if numbers else 2))]),
    )
    about = ABOUT | (OF_NUMBERS if numbers else {})
    mlflow.pyfunc.save_model(
        str(folder), python_model=LinearModel(numbers), signature=signature, metadata=about, pip_requirements=["mlflow"]
    )
    return folder
