"""A rank's own part of its steps, and its waits for the mean."""

import pytest
import tensorflow as tf

from pipelines.train.optim.step_times import StepTimer


def test_what_a_rank_waited_for_others_before_its_gradients_were_ready_is_not_its_own_time(monkeypatch):
    moments = iter([100.0, 100.0, 110.0, 113.0])
    monkeypatch.setattr(tf, "timestamp", lambda: tf.constant(next(moments), tf.float64))
    timer = StepTimer()
    timer.begin()
    # While gradients were computed; until after they were ready, at 110; and later.
    waits = tf.constant([[101.0, 103.0], [109.0, 112.0], [112.0, 112.5]], tf.float64)
    timer.time([tf.ones(3)], lambda gradients: (gradients, waits))
    times = timer.times()
    assert (times.steps, times.own_seconds, times.waited_seconds) == (1, pytest.approx(7.0), pytest.approx(6.0))
