"""A loaded model and its class probabilities."""

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
        keras_model = getattr(implementation, "keras_model", None)
        self._predict_on_batch = getattr(keras_model, "predict_on_batch", None)
        self._batch_rows = evaluation_rows(keras_model, math.prod(info.image_shape))

    def probabilities(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities.

        Args:
            images: [n, height, width, channels] in `value_range`, any numeric dtype.

        Returns:
            [n, num_classes] float32.

        Raises:
            DataError: the model's output has another shape.
        """
        rows = self._batch_rows
        batches = [self._predict(images[start : start + rows]) for start in range(0, len(images), rows)]
        if not batches:
            return np.empty((0, self.info.num_classes), np.float32)
        return np.concatenate(batches)

    def _predict(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = images.astype(np.float32)
        if self._predict_on_batch is not None:
            output = self._predict_on_batch(values)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                output = self._model.predict(values)
        probabilities = np.asarray(output, np.float32)
        if probabilities.shape != (len(images), self.info.num_classes):
            raise DataError(
                f"model {self.info.uri}: output has shape {list(probabilities.shape)} for {len(images)} images, expected "
                f"[{len(images)}, {self.info.num_classes}]; it must be one probability per class"
            )
        return probabilities
