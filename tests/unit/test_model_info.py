import dataclasses

import pytest
from support.model_infos import MNIST

from pipelines.data.table.schema import ReadingRules
from pipelines.errors import ConfigError

PICTURES = ReadingRules(source="pictures")


def test_pictures_are_taken_as_training_took_them():
    as_they_are = dataclasses.replace(MNIST, picture_form="picture")
    unknown = dataclasses.replace(MNIST, picture_form="unknown", reading=None)
    # Nothing is guessed from shape, range or names.
    assert [info.converts_to_digits("auto") for info in (MNIST, as_they_are, unknown)] == [True, False, False]
    assert [info.resizes_pictures("auto") for info in (MNIST, as_they_are, unknown)] == [True, True, True]
    exact = dataclasses.replace(as_they_are, reading=PICTURES)
    assert not exact.resizes_pictures("auto")
    assert exact.resizes_pictures("picture")
    resized = dataclasses.replace(as_they_are, reading=dataclasses.replace(PICTURES, resize_pictures=True))
    assert resized.resizes_pictures("auto")


def test_a_model_that_does_not_record_it_says_so():
    unknown = dataclasses.replace(MNIST, picture_form="unknown", reading=None)
    assert unknown.picture_note("auto").startswith("runs:/1/model does not record how it takes pictures: they are resized")
    assert MNIST.picture_note("auto") == unknown.picture_note("picture") == ""


def test_the_form_can_be_chosen_if_the_model_accepts_it():
    assert not MNIST.converts_to_digits("picture")
    assert dataclasses.replace(MNIST, picture_form="picture").converts_to_digits("digit")
    message = r"--form digit: must be picture for this model, which takes images of shape \[32, 32, 3\]"
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MNIST, image_shape=(32, 32, 3)).converts_to_digits("digit")
