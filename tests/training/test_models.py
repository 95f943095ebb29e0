import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.synthetic import images_and_labels

from pipelines.data.table.schema import DataSpec
from pipelines.errors import ConfigError
from pipelines.models import capsnet, dilated, registry
from pipelines.train.custom_loss import with_custom_loss

MNIST = DataSpec(shape=(28, 28, 1), dtype="uint8", value_range=(0.0, 255.0))
DILATED = [f"dilated_{rate}" for rate in dilated.RATES]
# Numbers given in the course.
COURSE = {"mlp": 16_175, "convnet": 149_010, "convnet_two": 126_490, "convnet_dropout": 600_810}


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_every_network_has_the_documented_number_of_parameters(name):
    parameters = registry.build(name, MNIST, 10).count_params()
    assert (
        f"\n{parameters:,} parameters for 28 x 28 x 1 and ten classes" in importlib.import_module(registry.NETWORKS[name]).__doc__
    )
    assert parameters == COURSE.get(name, parameters)


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_every_network_halves_its_loss_in_a_few_steps(name):
    keras.utils.set_random_seed(1)
    model = registry.build(name, DataSpec(shape=(16, 16, 1), dtype="uint8", value_range=(0.0, 255.0)), 4)
    own = registry.custom_loss(name)
    if own is not None:
        model = with_custom_loss(model, own)
    loss = "sparse_categorical_crossentropy" if own is None else own.function
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss=loss, jit_compile=False)
    images, labels = images_and_labels(256, (16, 16, 1))
    losses = [model.evaluate(images, labels, verbose=0)]
    while losses[-1] >= losses[0] / 2:
        assert len(losses) <= 8, f"8 steps an epoch, loss before and after each: {losses}"
        model.fit(images, labels, batch_size=32, verbose=0)
        losses.append(model.evaluate(images, labels, verbose=0))


@pytest.mark.parametrize("name", registry.NETWORKS)
@pytest.mark.parametrize(("shape", "classes"), [((32, 32, 3), 7), ((9, 12, 1), 2), ((8, 8, 1), 10)])
def test_every_network_accepts_any_shape_and_number_of_classes_and_outputs_float32_probabilities(name, shape, classes):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = registry.build(name, DataSpec(shape=shape, dtype="float32", value_range=(-1.0, 1.0)), classes)
    finally:
        keras.config.set_dtype_policy("float32")
    probabilities = np.asarray(model(np.zeros((5, *shape), np.float32)))
    assert probabilities.shape == (5, classes)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_every_saved_network_loads_and_predicts_the_same_without_convoy(tmp_path):
    images, _ = images_and_labels(3, (16, 16, 1))
    np.save(tmp_path / "images.npy", images.astype(np.float32))
    for name in registry.NETWORKS:
        model = registry.build(name, DataSpec(shape=(16, 16, 1), dtype="uint8", value_range=(0.0, 255.0)), 4)
        model.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", model(images.astype(np.float32)))
    script = (
        "import sys; sys.modules['pipelines'] = None\n"
        "import keras, numpy as np\n"
        "for name in sys.argv[1:]:\n"
        "    answers = keras.models.load_model(f'{name}.keras')(np.load('images.npy'))\n"
        "    np.testing.assert_allclose(answers, np.load(f'{name}.npy'), rtol=1e-4, atol=1e-6)\n"
    )
    # Isolated mode, so that the checkout is not on the path either.
    command = [sys.executable, "-I", "-c", script, *registry.NETWORKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_margin_loss_equals_that_of_the_paper():
    lengths = np.array([[0.95, 0.3, 0.05], [0.2, 0.5, 0.1]], np.float32)
    # 0.5 (0.3 - 0.1)^2, and (0.9 - 0.1)^2 + 0.5 ((0.2 - 0.1)^2 + (0.5 - 0.1)^2).
    np.testing.assert_allclose(capsnet.margin_loss(np.array([0, 2]), lengths), [0.02, 0.725], rtol=1e-5)


def test_a_network_with_a_custom_loss_is_trained_with_it_and_outputs_probabilities():
    keras.utils.set_random_seed(1)
    network = registry.build("capsnet", DataSpec(shape=(8, 8, 1), dtype="uint8", value_range=(0.0, 255.0)), 4)
    model = with_custom_loss(network, capsnet.LOSS)
    images, labels = images_and_labels(16, (8, 8, 1))
    lengths = keras.Model(network.input, network.get_layer("lengths").output)(images).numpy()
    model.compile(optimizer="sgd", loss=capsnet.LOSS.function, metrics=["accuracy"], jit_compile=False)
    expected = float(np.mean(capsnet.margin_loss(labels, lengths)))
    assert model.evaluate(images, labels, verbose=0)[0] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(model(images), lengths / lengths.sum(axis=1, keepdims=True), rtol=1e-4)
    assert [weight.path for weight in model.weights] == [weight.path for weight in network.weights]
    before = network.get_weights()
    model.fit(images, labels, verbose=0)
    assert all((now != then).any() for now, then in zip(network.get_weights(), before, strict=True))


def test_only_networks_with_a_custom_loss_reject_label_smoothing_with_the_reason():
    assert {name for name in registry.NETWORKS if registry.custom_loss(name) is not None} == set(registry.CUSTOM_LOSSES)
    registry.check("convnet", label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"training\.label_smoothing=0\.1: must be 0 with model\.name=capsnet, .* margin loss"):
        registry.check("capsnet", label_smoothing=0.1)


def test_a_network_whose_loss_is_one_of_classes_does_not_predict_numbers():
    registry.check_task("capsnet", "classification")
    registry.check_task("convnet", "regression")
    with pytest.raises(
        ConfigError, match=r"data\.task=regression: must be classification with model\.name=capsnet, .*margin loss"
    ):
        registry.check_task("capsnet", "regression")


def test_the_dropout_network_has_the_rates_of_the_course():
    model = registry.build("convnet_dropout", MNIST, 10)
    assert [model.get_layer(name).rate for name in ("dropout_1", "dropout_2")] == [0.75, 0.5]


def test_dilated_kernels_have_the_receptive_field_of_one_larger_dense_kernel():
    keras.utils.set_random_seed(1)
    network = registry.build("dilated", MNIST, 10)
    pooled = keras.Input((31, 31, 16))
    seen = pooled
    for layer in map(network.get_layer, DILATED):
        seen = layer(seen)
    dense = keras.layers.Conv2D(32, (15, 15), padding="same")(pooled)
    fields = [receptive_field(keras.Model(pooled, output)) for output in (seen, dense)]
    np.testing.assert_array_equal(fields[0], fields[1])
    assert fields[0].sum() == 15 * 15
    weights = sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in map(network.get_layer, DILATED))
    assert weights == 27


def receptive_field(model):
    """Which pixels of a noise image affect the output at the center, [height, width] bool."""
    images = np.random.default_rng(1).normal(size=(1, 31, 31, 16)).astype(np.float32)
    with tf.GradientTape() as tape:
        inputs = tf.constant(images)
        tape.watch(inputs)
        middle = tf.reduce_sum(model(inputs)[0, 15, 15])
    return np.abs(tape.gradient(middle, inputs).numpy()[0]).sum(axis=-1) > 0


@pytest.mark.parametrize("name", sorted(set(registry.NETWORKS) - {"mlp", "mlp_three", "mlp_wide"}))
def test_an_image_too_small_for_the_network_is_rejected_with_its_shape(name):
    with pytest.raises(ConfigError, match=rf"model\.name={name}: cannot be built for images of \(1, 2, 1\)") as caught:
        registry.build(name, DataSpec(shape=(1, 2, 1), dtype="uint8", value_range=(0.0, 255.0)), 10)
    assert "\n" not in str(caught.value)
