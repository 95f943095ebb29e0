import pytest

from pipelines.config.training import TrainingConfig
from pipelines.train.optim.schedule import PlannedLearningRate, plan_learning_rate


def rates(steps, workers=1, **settings):
    rate = PlannedLearningRate(plan_learning_rate(TrainingConfig(**settings), workers, steps_per_epoch=10))
    return [float(rate(step)) for step in steps]


def test_a_constant_rate_is_constant_with_one_worker():
    assert rates([0, 5, 99], epochs=10, base_learning_rate=0.1) == pytest.approx([0.1, 0.1, 0.1])


def test_workers_multiply_the_rate_after_a_warm_up_from_the_base_rate():
    assert rates([0, 5, 10, 50], workers=3, epochs=10, base_learning_rate=0.1, warmup_epochs=1) == pytest.approx(
        [0.1, 0.2, 0.3, 0.3]
    )


@pytest.mark.parametrize(("scaling", "peak"), [("linear", 0.4), ("square_root", 0.2), ("none", 0.1)])
def test_the_peak_scales_with_the_workers_as_configured(scaling, peak):
    found = rates([0, 50], workers=4, epochs=10, base_learning_rate=0.1, learning_rate_scaling=scaling)
    assert found == pytest.approx([0.1, peak])


@pytest.mark.parametrize(("scaling", "peak"), [("linear", 0.8), ("square_root", 0.1 * 8**0.5), ("none", 0.1)])
def test_the_peak_scales_with_the_global_batch_relative_to_the_configured_one(scaling, peak):
    settings = {
        "batch_size_per_worker": 512,
        "learning_rate_batch": 128,
        "base_learning_rate": 0.1,
        "learning_rate_scaling": scaling,
    }
    assert rates([0, 10], workers=2, epochs=10, warmup_epochs=1, **settings) == pytest.approx([0.1, peak])


def test_a_smaller_batch_has_its_smaller_rate_without_a_warm_up():
    settings = {"batch_size_per_worker": 32, "learning_rate_batch": 128, "base_learning_rate": 0.1}
    assert rates([0, 5, 50], epochs=10, **settings) == pytest.approx([0.025, 0.025, 0.025])


def test_cosine_ends_at_zero_and_is_half_in_the_middle():
    found = rates([0, 50, 100], epochs=10, base_learning_rate=0.1, warmup_epochs=0, schedule="cosine")
    assert found == pytest.approx([0.1, 0.05, 0.0], abs=1e-8)


def test_the_step_schedule_cuts_the_rate():
    found = rates(
        [0, 19, 20, 40], epochs=10, base_learning_rate=0.1, warmup_epochs=0, schedule="step", step_epochs=2, step_factor=0.5
    )
    assert found == pytest.approx([0.1, 0.1, 0.05, 0.025])


def test_one_cycle_rises_to_the_peak_and_falls_to_zero():
    found = rates([0, 30, 100], epochs=10, base_learning_rate=0.1, warmup_epochs=3, schedule="one_cycle")
    assert found == pytest.approx([0.004, 0.1, 0.0], abs=1e-8)
