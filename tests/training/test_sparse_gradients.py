import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from pipelines.data.table.schema import DataSpec
from pipelines.models import registry
from pipelines.train.kernels.sparse_batch import SparseGradients
from pipelines.train.kernels.sparse_gradients import SparseGradientConv2D, use_sparse_gradients
from pipelines.train.kernels.sparse_kernel import Convolution

MNIST = DataSpec(shape=(28, 28, 1), dtype="uint8", value_range=(0.0, 255.0))
BATCH = 7


def network(padding="valid", kernel=(3, 3), pool=2, rate=0.75, before="relu", policy="float32"):
    """Two convolutions, the second followed by pooling and dropout."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((13, 11, 2))
    features = layers.Conv2D(8, 3, activation=before, dtype=policy, name="first")(inputs)
    features = layers.Conv2D(
        12, kernel, padding=padding, activation="relu", bias_initializer="random_normal", dtype=policy, name="second"
    )(features)
    features = layers.MaxPooling2D(pool, dtype=policy)(features)
    features = layers.Dropout(rate, seed=5, dtype=policy)(features)
    return keras.Model(inputs, layers.Dense(3, dtype="float32")(layers.Flatten(dtype=policy)(features)))


def gradients(model):
    """Gradients of all weights and of the images in the second step, and the operation types in the graph."""
    random = np.random.default_rng(4)
    weights = [variable.value for variable in model.trainable_variables]

    @tf.function
    def step(images, targets):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_mean((model(images, training=True) - targets) ** 2)
        return tape.gradient(loss, [*weights, images])

    for _ in range(2):
        images = tf.constant(random.normal(size=(BATCH, 13, 11, 2)).astype(np.float32))
        found = step(images, tf.constant(random.normal(size=(BATCH, 3)).astype(np.float32)))
    operations = {operation.type for operation in step.get_concrete_function(images, tf.zeros((BATCH, 3))).graph.get_operations()}
    return [gradient.numpy() for gradient in found], operations


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"padding": "same"},
        {"padding": "same", "kernel": (4, 2)},
        {"kernel": (1, 5), "pool": (2, 3), "rate": 0.5},
        {"pool": 3, "rate": 0.1},
        {"before": "tanh"},
    ],
    ids=str,
)
def test_in_float32_gradients_equal_those_of_keras(shape, threads):
    expected, dense = gradients(network(**shape))
    model = network(**shape)
    assert use_sparse_gradients(model, "float32") == ["second"]
    found, operations = gradients(model)
    assert "PyFuncStateless" in operations
    assert "PyFuncStateless" not in dense
    assert len(found) == len(expected) == 7
    for gradient, of_keras in zip(found, expected, strict=True):
        assert np.abs(of_keras).max() > 0
        np.testing.assert_allclose(gradient, of_keras, rtol=1e-4, atol=1e-5 * np.abs(of_keras).max())


def test_in_bfloat16_gradients_are_as_close_to_float32_as_those_of_keras(threads):
    float32, _ = gradients(network())
    dense, _ = gradients(network(policy="mixed_bfloat16"))
    model = network(policy="mixed_bfloat16")
    assert use_sparse_gradients(model, "bfloat16") == ["second"]
    found, _ = gradients(model)
    for gradient, of_keras, exact in zip(found, dense, float32, strict=True):
        assert np.linalg.norm(gradient - exact) <= 1.1 * np.linalg.norm(of_keras - exact)
        # About the rounding error of bfloat16, with its eight bits.
        assert np.linalg.norm(gradient - of_keras) < 0.02 * np.linalg.norm(of_keras)


@pytest.fixture
def small():
    """A convolution whose pooling drops a row, and its arguments; every window has two maxima."""
    of = Convolution(4, 5, 2, 3, 3, 4, (2, 1))
    random = np.random.default_rng(6)
    images, weights = random.normal(size=(3, 4, 5, 2)).astype(np.float32), random.normal(size=(3, 3, 2, 4)).astype(np.float32)
    outputs = np.ones((3, 2, 3, 4), np.float32)
    return of, images, outputs, np.ones((3, 1, 3, 4), np.float32), np.ones((3, 1, 3, 4), np.float32), weights


def test_gradients_stop_where_relu_was_zero(small):
    of, images, outputs, pooled, of_pooled, weights = small
    outputs[0] = pooled[0] = 0
    outputs[1] = pooled[1] = -0.0
    of_images, of_weights, of_biases = SparseGradients(of, 2)(images, outputs, pooled, of_pooled, weights)
    assert not of_images[:2].any()
    assert of_images[2, :3].all()
    np.testing.assert_array_equal(of_biases, np.full(4, 3.0))
    assert of_weights.all()


def test_the_first_of_several_maxima_has_the_gradient(small):
    of, images, outputs, pooled, of_pooled, weights = small
    of_images, _, _ = SparseGradients(of, 1)(images, outputs, pooled, of_pooled, weights)
    assert of_images[:, :3].all()
    assert not of_images[:, 3].any()
    outputs[:, 0] = 0.5
    of_images, _, _ = SparseGradients(of, 1)(images, outputs, pooled, of_pooled, weights)
    assert not of_images[:, 0].any()
    assert of_images[:, 1:].all()


def test_nan_is_propagated(small):
    of, images, outputs, pooled, of_pooled, weights = small
    of_pooled[2, 0, 1, 3] = np.nan
    _, of_weights, of_biases = SparseGradients(of, 2)(images, outputs, pooled, of_pooled, weights)
    assert np.isnan(of_weights[..., 3]).all()
    assert not np.isnan(of_weights[..., :3]).any()
    np.testing.assert_array_equal(np.isnan(of_biases), [False, False, False, True])


def test_the_order_of_summation_is_the_same_every_time(threads):
    runs = []
    for _ in range(2):
        model = network(policy="mixed_bfloat16")
        use_sparse_gradients(model, "bfloat16")
        runs.append(gradients(model)[0])
    first, second = runs
    for gradient, repeated in zip(first, second, strict=True):
        np.testing.assert_array_equal(gradient, repeated)


def test_outputs_do_not_change():
    plain, model = network(padding="same"), network(padding="same")
    use_sparse_gradients(model, "float32")
    assert [type(layer) for layer in model.layers].count(SparseGradientConv2D) == 1
    images = np.random.default_rng(7).normal(size=(BATCH, 13, 11, 2)).astype(np.float32)
    np.testing.assert_allclose(model(images), plain(images), rtol=1e-6)


def test_only_networks_with_enough_zero_gradients_are_changed():
    names = {}
    for name in ("convnet", "convnet_dropout", "convnet_batchnorm", "convnet_deep", "vgg"):
        names[name] = use_sparse_gradients(registry.build(name, MNIST, 10), "float32")
    assert names == {
        "convnet": [],
        "convnet_dropout": ["convolution_2"],
        "convnet_batchnorm": [],
        "convnet_deep": [],
        "vgg": [],
    }


def branched(**changes):
    """The same two layers, with variations that prevent the replacement."""
    inputs = keras.Input((12, 12, 4))
    settings = {"filters": 8, "kernel_size": 3, "activation": "relu"} | changes.get("layer", {})
    features = layers.Conv2D(**settings)(inputs)
    pooled = layers.MaxPooling2D(**({"pool_size": 2} | changes.get("pooling", {})))(features)
    dropped = layers.Dropout(0.75)(pooled)
    outputs = [layers.Dense(2)(layers.Flatten()(dropped))]
    branch = {"convolution": features, "pooling": pooled, None: None}[changes.get("branch")]
    if branch is not None and changes["ends"]:
        outputs.append(branch)
    elif branch is not None:
        outputs.append(keras.ops.mean(branch, axis=(1, 2, 3)))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": {"strides": 2}},
        {"layer": {"dilation_rate": 2}},
        {"layer": {"groups": 2}},
        {"layer": {"filters": 6}},
        {"layer": {"activation": "elu"}},
        {"layer": {"use_bias": False}},
        {"pooling": {"strides": 1}},
        {"pooling": {"padding": "same"}},
        {"branch": "convolution", "ends": True},
        {"branch": "convolution", "ends": False},
        {"branch": "pooling", "ends": True},
        {"branch": "pooling", "ends": False},
    ],
    ids=str,
)
def test_unsupported_layers_are_left_to_keras(changes):
    assert len(use_sparse_gradients(branched(), "float32")) == 1
    assert use_sparse_gradients(branched(**changes), "float32") == []


def test_a_relu_with_other_consumers_keeps_its_gradient():
    def built():
        keras.utils.set_random_seed(8)
        inputs = keras.Input((13, 11, 2))
        first = layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
        second = layers.Conv2D(8, 3, activation="relu", name="second")(first)
        dropped = layers.Dropout(0.75, seed=5)(layers.MaxPooling2D(2)(second))
        both = layers.Concatenate()([layers.Flatten()(dropped), layers.Flatten()(first)])
        return keras.Model(inputs, layers.Dense(3)(both))

    expected, _ = gradients(built())
    model = built()
    assert use_sparse_gradients(model, "float32") == ["second"]
    for gradient, of_keras in zip(gradients(model)[0], expected, strict=True):
        np.testing.assert_allclose(gradient, of_keras, rtol=1e-4, atol=1e-5 * np.abs(of_keras).max())


def test_float16_gpus_and_machines_without_numba_are_left_to_keras(monkeypatch, caplog):
    assert use_sparse_gradients(network(), "float16") == []
    with monkeypatch.context() as changed:
        changed.setattr(tf.config, "get_visible_devices", lambda kind: [kind] if kind == "GPU" else [])
        assert use_sparse_gradients(network(), "float32") == []
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else find(name))
    with caplog.at_level("INFO"):
        assert use_sparse_gradients(network(), "float32") == []
    assert "second would train faster with Numba" in caplog.text
