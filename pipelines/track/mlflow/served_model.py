"""The logged model as MLflow's python_function, with a check of its input.

A copy of this file in the model's folder, `convoy_served_model.py`, runs where only the model's requirements are installed. A
copy of `pipelines.system.keras_settings` is beside it.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class ServedModel:
    """A Keras model that refuses rows with values on which it was not trained, where Keras would answer something."""

    def __init__(self, model: Any, value_range: tuple[float, float]) -> None:
        """Values outside `value_range`, or not finite, are refused."""
        self._model = model
        self._low, self._high = value_range
        self.keras_model = model.keras_model

    def get_raw_model(self) -> Any:
        return self._model.get_raw_model()

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Class probabilities. Raises MlflowException, which servers answer with status 400."""
        for values in data.values() if isinstance(data, dict) else [data]:
            self._check(np.asarray(values))
        with _float32():
            return self._model.predict(data)

    def _check(self, images: Any) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

        if images.dtype == object:
            images = np.asarray(images.tolist(), np.float32)
        # As float32, because a bound such as 0.1 is slightly larger there.
        low, high = np.float32(self._low), np.float32(self._high)
        wrong = ~((images >= low) & (images <= high))
        if wrong.any():
            place = np.argwhere(wrong)[0].tolist()
            value = images[tuple(place)]
            what = f"is {value:g}, outside" if np.isfinite(value) else "is missing or not finite; it must be in"
            where = f"{'image' if images.ndim == 4 else 'row'} {place[0]}: the value at {place[1:]}"
            raise MlflowException(
                f"{where} {what} the range {self._low:g} to {self._high:g} of the training data",
                error_code=INVALID_PARAMETER_VALUE,
            )


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Let Keras take the images as they are, where the process has set it to another float type for networks of its own."""
    config = getattr(sys.modules.get("keras"), "config", None)
    before = config.floatx() if config is not None else "float32"
    if config is None or before == "float32":
        yield
        return
    config.set_floatx("float32")
    try:
        yield
    finally:
        config.set_floatx(before)


def _load_pyfunc(path: str) -> ServedModel:
    """Called by MLflow with the path of the folder `data` in the model's folder."""
    from mlflow.models import Model

    own = __name__.startswith("pipelines.")
    keras_settings = importlib.import_module("pipelines.system.keras_settings" if own else "convoy_keras_settings")
    metadata = Model.load(str(Path(path).parent)).metadata
    largest = float(np.finfo(np.float32).max)
    low, high = (-largest, largest) if metadata.get("range_was_read") else metadata["value_range"]
    # Unless the process has imported Keras already, this does.
    with keras_settings.defaults(os.environ):
        import mlflow.tensorflow

        return ServedModel(mlflow.tensorflow._load_pyfunc(path), (low, high))
