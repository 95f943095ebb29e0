"""The tasks: metrics, losses and tests that compare two models, against scikit-learn and SciPy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error, r2_score

from pipelines import tasks
from pipelines.errors import ConfigError
from pipelines.tasks.metric import Totals
from pipelines.tasks.paired_errors import paired_p_value

CLASSES, NUMBERS = tasks.of("classification"), tasks.of("regression")


def numbers(rows=200, targets=2, seed=1):
    """True and predicted numbers, whose scales differ, and weights."""
    rng = np.random.default_rng(seed)
    true = (rng.normal(size=(rows, targets)) * [3.0, 1000.0][:targets] + 1e4).astype(np.float32)
    return true, (true + rng.normal(size=true.shape) * 2).astype(np.float32), rng.uniform(0, 3, rows).astype(np.float32)


def totalled(task, parts):
    """The metrics from totals of parts, as ranks or partitions have them."""
    whole = Totals(task.metrics)
    for part in parts:
        own = Totals(task.metrics)
        own.add(*part)
        whole.merge(own.by_name)
    return whole.values()


@given(st.lists(st.integers(0, 200), max_size=4), st.booleans())
def test_metrics_of_numbers_are_those_of_all_rows_however_they_are_divided(cuts, weighted):
    arrays = numbers()[: 3 if weighted else 2]
    edges = [0, *sorted(cuts), 200]
    parts = [[array[start:stop] for array in arrays] for start, stop in itertools.pairwise(edges)]
    true, predicted, *rest = arrays
    weights = rest[0] if rest else None
    found = totalled(NUMBERS, parts)
    squared = np.average(np.mean((predicted.astype(float) - true) ** 2, axis=1), weights=weights)
    assert found["rmse"] == pytest.approx(np.sqrt(squared), rel=1e-9)
    assert found["mae"] == pytest.approx(mean_absolute_error(true.astype(float), predicted.astype(float), sample_weight=weights))
    assert found["r2"] == pytest.approx(r2_score(true.astype(float), predicted.astype(float), sample_weight=weights), abs=1e-7)


def test_the_rmse_of_one_number_is_that_of_scikit_learn():
    true, predicted, weights = numbers(targets=1)
    found = totalled(NUMBERS, [(true, predicted, weights)])["rmse"]
    squared = mean_squared_error(true.astype(float), predicted.astype(float), sample_weight=weights)
    assert found == pytest.approx(squared**0.5)


def test_the_accuracy_counts_rows_by_their_weights():
    rng = np.random.default_rng(1)
    labels, outputs, weights = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50).astype(np.float32), rng.uniform(0, 2, 50)
    assert totalled(CLASSES, [(labels, outputs)])["accuracy"] == accuracy_score(labels, outputs.argmax(1))
    expected = accuracy_score(labels, outputs.argmax(1), sample_weight=weights)
    assert totalled(CLASSES, [(labels, outputs, weights)])["accuracy"] == pytest.approx(expected)


def test_rows_of_weight_0_and_numbers_that_are_always_the_same_have_finite_metrics():
    same = np.full((5, 1), 7, np.float32)
    assert totalled(NUMBERS, [(same, same + 1)]) == {"rmse": 1.0, "mae": 1.0, "r2": 0.0}
    assert totalled(NUMBERS, [(same, same + 1, np.zeros(5))]) == {"rmse": 0.0, "mae": 0.0, "r2": 0.0}


@pytest.mark.parametrize(("task", "loss"), [("classification", "mse"), ("regression", "sparse_categorical_crossentropy")])
def test_a_loss_of_another_task_is_refused_and_one_of_its_own_or_the_user_s_is_not(task, loss):
    other = "regression" if task == "classification" else "classification"
    with pytest.raises(ConfigError, match=rf"training\.loss={loss}: must fit data\.task {task}, .*or set data\.task={other}"):
        tasks.check_loss(task, loss)
    tasks.check_loss(other, loss)
    tasks.check_loss(task, "losses.py:mine")


def test_the_first_metric_decides_and_says_in_which_direction():
    assert [(task.metrics[0].name, task.metrics[0].larger_is_better) for task in (CLASSES, NUMBERS)] == [
        ("accuracy", True),
        ("rmse", False),
    ]
    assert tasks.shown("test/accuracy", 0.98765) == "98.77 %"
    assert [tasks.shown("rmse", value) for value in (0.12345, 123456.7, 0.000012345)] == ["0.1235", "1.2346e+05", "1.2345e-05"]


def test_the_paired_test_on_errors_is_the_t_test_on_squared_errors_over_the_variance():
    true, first, _ = numbers()
    second = first + np.random.default_rng(3).normal(0.2, 0.5, first.shape).astype(np.float32)
    deviations = (3.0, 1000.0)
    sums = sum(
        NUMBERS.pair_sums(true[part], first[part], second[part], deviations)
        for part in (slice(0, 70), slice(70, 70), slice(70, 200))
    )
    found = NUMBERS.compared(sums)
    errors = [(((outputs.astype(float) - true) / deviations) ** 2).mean(axis=1) for outputs in (first, second)]
    assert found.p_value == pytest.approx(ttest_rel(*errors).pvalue, rel=1e-6)
    assert found.first_is_better == bool(errors[0].mean() < errors[1].mean())
    assert found.rows == 200
    assert (found.first_closer, found.second_closer) == ((errors[0] < errors[1]).sum(), (errors[0] > errors[1]).sum())


def test_equal_models_differ_by_nothing_and_few_rows_say_nothing():
    assert paired_p_value(100, 0.0, 0.0) == 1.0
    assert paired_p_value(1, 2.0, 4.0) == 1.0
    assert paired_p_value(10, 10.0, 10.0) == 0.0
