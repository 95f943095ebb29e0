"""A loaded model and its class probabilities."""

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.score.mlflow_client import quiet
from pipelines.score.model_info import ModelInfo

# Larger batches are no faster and cost memory.
_BATCH_ROWS = 1000


class Classifier:
    """A loaded model. Loading takes seconds, because it imports the library that the model was written with."""

    def __init__(self, info: ModelInfo) -> None:
        import mlflow.pyfunc

        self.info = info
        with quiet():
            self._model = mlflow.pyfunc.load_model(str(info.path))
        implementation = getattr(self._model, "_model_impl", None)
        # MLflow calls Keras with batches of 32 and a progress bar; measured four times slower than batches of 1,000.
        self._predict_on_batch = getattr(getattr(implementation, "keras_model", None), "predict_on_batch", None)

    def probabilities(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities.

        Args:
            images: [n, height, width, channels] in `value_range`, any numeric dtype.

        Returns:
            [n, num_classes] float32.

        Raises:
            DataError: the model's output has another shape.
        """
        batches = [self._predict(images[start : start + _BATCH_ROWS]) for start in range(0, len(images), _BATCH_ROWS)]
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
