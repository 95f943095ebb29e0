import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from pipelines.train.kernels.byte_dropout import ByteDropout, use_byte_dropout


def network(rate, policy="float32", **settings):
    inputs = keras.Input((50, 3))
    return keras.Model(inputs, layers.Dropout(rate, seed=1, dtype=policy, name="dropout", **settings)(inputs))


def with_byte_dropout(rate, policy="float32"):
    model = network(rate, policy)
    assert use_byte_dropout(model) == ["dropout"]
    return model


def dropped(model, batch):
    return np.array(keras.ops.cast(model(np.ones((batch, 50, 3), np.float32), training=True), "float32"))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75, 0.3, 0.001, 0.999])
def test_values_are_dropped_at_the_rate_and_the_others_scaled_up(rate, policy):
    # 150 values per image, which do not fill whole words.
    values = dropped(with_byte_dropout(rate, policy), 2001)
    count = values.size
    kept = values[values != 0]
    assert abs((count - kept.size) / count - rate) < 5 * np.sqrt(rate * (1 - rate) / count)
    # Two bytes hold a rate to 1/65,536, and bfloat16 has eight bits.
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=0.01)
    assert np.unique(kept).size == 1


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_dropped_value_is_zero_and_so_is_its_gradient_whatever_the_value_as_in_keras(value, policy):
    images = np.full((20, 50, 3), value, np.float32)
    for model in (with_byte_dropout(0.5, policy), network(0.5, policy)):
        inputs = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = model(inputs, training=True)
            # An infinite gradient comes from above where a step overflows.
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * np.float32(value))
        found, gradients = np.array(tf.cast(outputs, tf.float32)), np.array(tape.gradient(loss, inputs))
        is_dropped = found == 0
        assert 0.4 < is_dropped.mean() < 0.6
        np.testing.assert_array_equal(found[~is_dropped], np.float32(value))
        assert (gradients[is_dropped] == 0).all()
        assert not np.isfinite(gradients[~is_dropped]).any()


def test_values_within_a_word_and_in_adjacent_words_are_independent():
    kept = dropped(with_byte_dropout(0.5), 2000).reshape(-1) != 0
    for distance in (1, 2, 3, 4, 50, 150):
        same = np.mean(kept[distance:] == kept[:-distance])
        assert abs(same - 0.5) < 5 * 0.5 / np.sqrt(kept.size)


def test_the_same_seed_and_count_of_calls_give_the_same_values():
    model = with_byte_dropout(0.5)
    state = model.get_layer("dropout").seed_generator.state
    state.assign([7, 0])
    first, second = dropped(model, 4), dropped(model, 4)
    assert (first != second).any()
    assert int(keras.ops.convert_to_numpy(state)[1]) == 2
    state.assign([7, 1])
    np.testing.assert_array_equal(dropped(model, 4), second)
    state.assign([8, 0])
    assert (dropped(model, 4) != first).any()


def test_nothing_is_dropped_outside_training():
    model = with_byte_dropout(0.5)
    values = np.random.default_rng(2).normal(size=(3, 50, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(values, training=False), values)


def test_layers_with_a_noise_shape_or_a_rate_of_zero_are_left_to_keras():
    for model in (network(0.5, noise_shape=(None, 1, 3)), network(0.0)):
        assert use_byte_dropout(model) == []
        assert not any(isinstance(layer, ByteDropout) for layer in model.layers)
