import dataclasses
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.score.model_info import ModelInfo

MNIST = ModelInfo(
    uri="runs:/1/model",
    path=Path(),
    version="",
    run_id="1",
    image_shape=(28, 28, 1),
    num_classes=10,
    labels=tuple(range(10)),
    class_names=tuple("0123456789"),
    value_range=(0.0, 255.0),
    dataset="mnist",
    table_digest="abc",
)


def test_pictures_are_converted_to_mnists_format_only_for_models_of_grey_digits():
    assert MNIST.converts_to_digits("auto")
    assert dataclasses.replace(MNIST, dataset="data-001").converts_to_digits("auto")
    for other in (
        {"dataset": "fashion-mnist"},
        {"class_names": tuple("abcdefghij")},
        {"image_shape": (32, 32, 3)},
        {"value_range": (0.0, 1.0)},
        {"describes_classes": False},
    ):
        assert not dataclasses.replace(MNIST, **other).converts_to_digits("auto")


def test_the_form_can_be_chosen_if_the_model_accepts_it():
    assert not MNIST.converts_to_digits("picture")
    assert dataclasses.replace(MNIST, dataset="fashion-mnist").converts_to_digits("digit")
    message = r"--form digit: must be picture for this model, which takes images of shape \[32, 32, 3\]"
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MNIST, image_shape=(32, 32, 3)).converts_to_digits("digit")
