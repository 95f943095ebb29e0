"""Models for the numbers of `synthetic` that load instantly: they need only MLflow, no TensorFlow."""

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from pipelines.score import model_info

DEVIATIONS = (20.0, 200.0)


class Sums(mlflow.pyfunc.PythonModel):
    """Predicts numbers from the sum of the features."""

    def __init__(self, factor, targets):
        self.factor = factor
        self.targets = targets

    def predict(self, context, model_input, params=None):
        return predicted(np.asarray(model_input), self.factor, self.targets)


def predicted(values, factor, targets):
    return (50 + factor * values.sum(axis=1, keepdims=True) * 10.0 ** np.arange(targets)).astype(np.float32)


def saved(folder, factor, targets, **metadata):
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 6))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, targets))]),
    )
    names = [f"target_{number + 1}" for number in range(targets)]
    about = {"task": "regression", "labels": [], "class_names": [], "value_range": [-10.0, 10.0], "source": "libsvm"}
    about |= {"zero_based": False, "resize_pictures": False, "target_names": names, "target_deviations": DEVIATIONS[:targets]}
    model = Sums(factor, targets)
    mlflow.pyfunc.save_model(
        str(folder), python_model=model, signature=signature, metadata=about | metadata, pip_requirements=["mlflow"]
    )
    return model_info.read(folder, str(folder))
