import keras
import numpy as np
import pytest
from synthetic import images_and_labels

from pipelines.errors import ConfigError
from pipelines.models import registry
from pipelines.schema import ImageSpec

MNIST = ImageSpec(shape=(28, 28, 1), dtype="uint8", value_range=(0.0, 255.0))
PARAMETERS = {"mlp": 16_175, "convnet": 149_010, "convnet_two": 126_490, "convnet_dropout": 600_810}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_courses_networks_have_the_parameters_of_the_course(name):
    assert registry.build(name, MNIST, 10).count_params() == PARAMETERS[name]


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_every_network_learns(name):
    keras.utils.set_random_seed(1)
    model = registry.build(name, ImageSpec(shape=(16, 16, 1), dtype="uint8", value_range=(0.0, 255.0)), 4)
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss="sparse_categorical_crossentropy")
    images, labels = images_and_labels(256, (16, 16, 1))
    before = model.evaluate(images, labels, verbose=0)
    model.fit(images, labels, batch_size=32, epochs=8, verbose=0)
    assert model.evaluate(images, labels, verbose=0) < before / 2


@pytest.mark.parametrize("name", registry.NETWORKS)
@pytest.mark.parametrize(("shape", "classes"), [((32, 32, 3), 7), ((9, 12, 1), 2)])
def test_every_network_takes_any_shape_and_number_of_classes_and_gives_float32_probabilities(name, shape, classes):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = registry.build(name, ImageSpec(shape=shape, dtype="float32", value_range=(-1.0, 1.0)), classes)
    finally:
        keras.config.set_dtype_policy("float32")
    probabilities = np.asarray(model(np.zeros((5, *shape), np.float32)))
    assert probabilities.shape == (5, classes)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_the_dropout_network_drops_what_the_course_drops():
    model = registry.build("convnet_dropout", MNIST, 10)
    assert [model.get_layer(name).rate for name in ("dropout_1", "dropout_2")] == [0.75, 0.5]


def test_an_image_too_small_for_the_network_is_refused_with_its_shape():
    with pytest.raises(ConfigError, match=r"model\.name=convnet: cannot be built for images of \(2, 2, 1\)"):
        registry.build("convnet", ImageSpec(shape=(2, 2, 1), dtype="uint8", value_range=(0.0, 255.0)), 10)
