"""When a rank takes digests of its weights, and what changes them."""

import itertools

import keras
import numpy as np
import pytest

from pipelines import progress
from pipelines.train.weight_digests import WeightDigests


@pytest.fixture
def model():
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)])


def taken(model, seconds_per_step, steps, stride=1, first=1):
    """The steps after which digests are taken."""
    clock = [0.0]
    digests, found = WeightDigests(now=lambda: clock[0]), []
    for step in range(first, steps + 1, stride):
        before = progress.now().weight_digests
        digests.after_step(model, step)
        if progress.now().weight_digests != before:
            found.append(progress.now().weight_digests[-1][0])
        clock[0] += seconds_per_step * stride
    return found


def test_every_few_seconds_and_after_the_same_steps_on_ranks_of_somewhat_different_pace(model):
    assert taken(model, 0.1, 200) == [32, 64, 96, 128, 160, 192]
    assert set(taken(model, 0.081, 200)) <= set(taken(model, 0.079, 200))
    assert taken(model, 30, 4) == [2, 3, 4]
    # Sixteen steps in a call.
    assert taken(model, 0.1, 200, stride=16, first=10) == [42, 74, 106, 138, 170]


def test_a_digest_is_of_the_weights_that_gradients_change(model):
    def digest():
        digests = WeightDigests(now=itertools.count(step=100).__next__)
        for step in (1, 2):
            digests.after_step(model, step)
        return progress.now().weight_digests[-1]

    first = digest()
    normalization, dense = model.layers
    normalization.moving_mean.assign(np.ones(4))
    assert digest() == first
    dense.bias.assign(np.ones(2))
    assert digest()[0] == 2
    assert digest() != first
