"""The learning rate as a function of the step.

The peak is the base rate scaled with the global batch (`training.learning_rate_scaling`). After the warm-up, which rises to it,
the schedule takes over. Steps are those of the whole training from 0 (`pipelines.train.optim.step_count`), so a resumed training
continues at its rate.
"""

import math
from dataclasses import dataclass

import keras
import tensorflow as tf

from pipelines.config.training import LearningRateScaling, Schedule, TrainingConfig

# Initial rate of a one-cycle schedule, as a fraction of the peak (Smith and Topin 2017, arXiv:1708.07120).
_ONE_CYCLE_START = 1 / 25


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The parameters of the learning rate; lengths are in steps."""

    schedule: Schedule
    start: float
    """Rate at step 0, before warm-up."""
    peak: float
    """Rate after warm-up."""
    warmup_steps: int
    total_steps: int
    step_length: int
    step_factor: float


def plan_learning_rate(training: TrainingConfig, workers: int, steps_per_epoch: int) -> LearningRate:
    """The learning rate of a run with this number of workers, or of canonical shards in their place."""
    batch_size = training.batch_size_per_worker
    growth = workers * batch_size / (training.learning_rate_batch or batch_size)
    factors: dict[LearningRateScaling, float] = {"linear": growth, "square_root": math.sqrt(growth), "none": 1.0}
    peak = training.base_learning_rate * factors[training.learning_rate_scaling]
    total_steps = training.epochs * steps_per_epoch
    return LearningRate(
        schedule=training.schedule,
        start=peak * _ONE_CYCLE_START if training.schedule == "one_cycle" else min(training.base_learning_rate, peak),
        peak=peak,
        warmup_steps=min(round(training.warmup_epochs * steps_per_epoch), total_steps),
        total_steps=total_steps,
        step_length=max(1, round(training.step_epochs * steps_per_epoch)),
        step_factor=training.step_factor,
    )


class PlannedLearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """A `LearningRate` as a schedule that Keras evaluates in the training graph."""

    def __init__(self, rate: LearningRate) -> None:
        self._rate = rate

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate at a step, a float32 scalar."""
        rate = self._rate
        step = tf.cast(step, tf.float32)
        after = step - rate.warmup_steps
        length = max(rate.total_steps - rate.warmup_steps, 1)
        progress = tf.clip_by_value(after / length, 0.0, 1.0)
        if rate.schedule in ("cosine", "one_cycle"):
            planned = rate.peak * 0.5 * (1.0 + tf.cos(math.pi * progress))
        elif rate.schedule == "step":
            planned = rate.peak * tf.pow(rate.step_factor, tf.floor(tf.maximum(after, 0.0) / rate.step_length))
        else:
            planned = tf.constant(rate.peak)
        if rate.warmup_steps == 0:
            return planned
        warming_up = rate.start + (rate.peak - rate.start) * step / rate.warmup_steps
        return tf.where(after < 0, warming_up, planned)

    def get_config(self) -> dict[str, object]:
        return {"rate": self._rate}
