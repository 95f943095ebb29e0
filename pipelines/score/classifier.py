"""A loaded model and its outputs: class probabilities, or numbers."""

import contextlib
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.models.memory import evaluation_rows
from pipelines.score.mlflow_client import quiet
from pipelines.score.model_info import ModelInfo
from pipelines.system.tensorflow_env import without_import_messages


class Classifier:
    """A loaded model. Loading takes seconds, because it imports the library that the model was written with."""

    def __init__(self, info: ModelInfo) -> None:
        import mlflow.pyfunc

        self.info = info
        with quiet(), without_import_messages():
            self._model = mlflow.pyfunc.load_model(str(info.path))
        implementation = getattr(self._model, "_model_impl", None)
        # MLflow calls Keras with batches of 32 and a progress bar; measured four times slower than batches of 1,000.
        self.keras_model = getattr(implementation, "keras_model", None)
        """The Keras model; None if MLflow loaded another kind."""
        self._predict_on_batch = getattr(self.keras_model, "predict_on_batch", None)
        self._batch_rows = evaluation_rows(self.keras_model, math.prod(info.image_shape))

    def outputs(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities, or numbers in source units.

        Args:
            inputs: [n, height, width, channels] or [n, features] in `value_range`, any numeric dtype.

        Returns:
            [n, num_outputs] float32.

        Raises:
            DataError: the model's output has another shape.
        """
        rows = self._batch_rows
        batches = [self._predict(inputs[start : start + rows]) for start in range(0, len(inputs), rows)]
        if not batches:
            return np.empty((0, self.info.num_outputs), np.float32)
        return np.concatenate(batches)

    def probabilities(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """`outputs` of a classification."""
        return self.outputs(images)

    def _predict(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = inputs.astype(np.float32)
        if self._predict_on_batch is not None:
            output = self._predict_on_batch(values)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                output = self._model.predict(values)
        outputs = np.asarray(output, np.float32)
        if outputs.shape != (len(inputs), self.info.num_outputs):
            one = "one probability per class" if self.info.num_classes else "one value for each number that it predicts"
            raise DataError(
                f"model {self.info.uri}: output has shape {list(outputs.shape)} for {len(inputs)} rows, expected "
                f"[{len(inputs)}, {self.info.num_outputs}]; it must be {one}"
            )
        return outputs
