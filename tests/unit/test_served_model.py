"""The check of a served model's input. That servers answer 400 is tested end to end."""

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from pipelines.track.mlflow.served_model import ServedModel


class Keras:
    """What MLflow wraps around a Keras model."""

    keras_model = "network"

    def predict(self, images):
        return np.asarray(images).mean(axis=(1, 2, 3)) if not isinstance(images, dict) else self.predict(*images.values())


IMAGES = np.full((3, 2, 2, 1), 0.1, np.float32)


def served(value_range=(0.0, 255.0)):
    return ServedModel(Keras(), value_range)


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-0.1, 0.1)])
def test_values_in_the_range_are_answered_bounds_included(value_range):
    images = IMAGES.copy()
    images[0] = np.float32(value_range[0])
    images[1] = np.float32(value_range[1])
    for data in (images, images.tolist(), {"image": images}):
        np.testing.assert_allclose(served(value_range).predict(data), images.mean(axis=(1, 2, 3)))
    assert served().keras_model == "network"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (255.5, r"image 2: the value at \[1, 0, 0\] is 255\.5, outside the range 0 to 255 of the training data"),
        (-1, "is -1, outside the range 0 to 255"),
        (np.nan, "is missing or not finite; it must be in the range 0 to 255"),
        (np.inf, "is missing or not finite"),
        (None, "is missing or not finite"),
    ],
)
def test_other_values_are_refused_with_the_status_400(value, message):
    images = IMAGES.astype(object)
    images[2, 1, 0, 0] = value
    as_floats = images.astype(np.float64)
    for data in (images, as_floats, {"image": as_floats.astype(np.float32)}):
        with pytest.raises(MlflowException, match=message) as caught:
            served().predict(data)
        assert caught.value.get_http_status_code() == 400
