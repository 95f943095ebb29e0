"""Loss scaling for float16 when gradients overflow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.config.training import TrainingConfig
from pipelines.train.compile import make_optimizer
from pipelines.train.optim.loss_scale import NOT_FINITE, base_optimizer
from pipelines.train.optim.schedule import PlannedLearningRate, plan_learning_rate
from pipelines.train.optim.step_count import steps_done

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
    # Not a constant of the graph, which would decide while it is traced whether it is finite.
    tf.function(lambda value: model.optimizer.apply([value], model.trainable_variables))(tf.constant([[gradient]]))
    return float(model.get_weights()[0][0, 0]), float(model.optimizer.dynamic_scale.numpy())


def test_gradients_are_unscaled_before_they_are_clipped(model):
    assert stepped(model, 1.0 * INITIAL_SCALE) == pytest.approx((-0.1, INITIAL_SCALE))
    assert stepped(model, 9.0 * INITIAL_SCALE) == pytest.approx((-0.3, INITIAL_SCALE))


def counts(model):
    """Updates of the optimizer, and steps of the training."""
    return int(keras.ops.convert_to_numpy(base_optimizer(model.optimizer).iterations)), steps_done(model)


def test_a_step_that_overflows_changes_no_weight_is_no_update_but_a_step_and_halves_the_scale(model):
    assert stepped(model, np.inf) == (0.0, INITIAL_SCALE / 2)
    assert counts(model) == (0, 1)
    assert stepped(model, INITIAL_SCALE / 2) == pytest.approx((-0.1, INITIAL_SCALE / 2))
    assert counts(model) == (1, 2)


def test_building_again_adds_no_variable_and_keeps_the_scale(model):
    variables = [id(variable) for variable in model.optimizer.variables]
    stepped(model, np.inf)
    model.optimizer.build(model.trainable_variables)
    assert [id(variable) for variable in model.optimizer.variables] == variables
    assert float(model.optimizer.dynamic_scale.numpy()) == INITIAL_SCALE / 2


def test_a_loss_that_is_not_finite_at_any_scale_ends_the_training(model):
    for _ in range(25):
        stepped(model, np.nan)
    with pytest.raises(tf.errors.InvalidArgumentError, match=NOT_FINITE):
        stepped(model, np.nan)
    assert float(model.get_weights()[0][0, 0]) == 0.0
    # A step that fails is not counted.
    assert counts(model) == (0, 25)
