"""Loss scaling for float16 when gradients overflow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.config.training import TrainingConfig
from pipelines.train.callback import optimizer_steps
from pipelines.train.compile import make_optimizer
from pipelines.train.optim.loss_scale import NOT_FINITE
from pipelines.train.optim.schedule import PlannedLearningRate, plan_learning_rate

pytestmark = pytest.mark.usefixtures("horovod")

INITIAL_SCALE = 2.0**15


@pytest.fixture
def model():
    inputs = keras.Input((1,))
    network = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    network.set_weights([np.zeros((1, 1), np.float32)])
    training = TrainingConfig(optimizer="sgd", base_learning_rate=0.1, warmup_epochs=0, clip_norm=2.0, average_decay=0.5)
    network.optimizer = make_optimizer(training, PlannedLearningRate(plan_learning_rate(training, 1, 10)), network, "float16")
    network.optimizer.build(network.trainable_variables)
    return network


def stepped(model, gradient):
    """The weight and the scale after a step with a scaled gradient."""
    tf.function(lambda: model.optimizer.apply([tf.constant([[gradient]])], model.trainable_variables))()
    return float(model.get_weights()[0][0, 0]), float(model.optimizer.dynamic_scale.numpy())


def test_gradients_are_unscaled_before_they_are_clipped(model):
    assert stepped(model, 1.0 * INITIAL_SCALE) == pytest.approx((-0.1, INITIAL_SCALE))
    assert stepped(model, 9.0 * INITIAL_SCALE) == pytest.approx((-0.3, INITIAL_SCALE))


def test_a_step_that_overflows_changes_no_weight_is_not_counted_and_halves_the_scale(model):
    assert stepped(model, np.inf) == (0.0, INITIAL_SCALE / 2)
    assert optimizer_steps(model) == 0
    assert stepped(model, INITIAL_SCALE / 2) == pytest.approx((-0.1, INITIAL_SCALE / 2))
    assert optimizer_steps(model) == 1


def test_a_loss_that_is_not_finite_at_any_scale_ends_the_training(model):
    for _ in range(25):
        stepped(model, np.nan)
    with pytest.raises(tf.errors.InvalidArgumentError, match=NOT_FINITE):
        stepped(model, np.nan)
    assert float(model.get_weights()[0][0, 0]) == 0.0
