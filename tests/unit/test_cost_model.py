import math

import numpy as np
import pytest

from benchmarks.costmodel import Cost, Reduction, efficiency, fit, fit_with_errors, from_efficiencies

TRUE = Cost(base=2e-3, alpha=3e-4, beta=120e6)
GRID = [(hosts, size) for hosts in (2, 3, 4) for size in (10**3, 10**5, 10**6, 10**7)]


def measured(cost, noise=0.0):
    rng = np.random.default_rng(1)
    return [Reduction(n, size, cost.seconds(n, size) * (1 + noise * rng.normal())) for n, size in GRID]


def test_a_fit_recovers_the_parameters_behind_the_measurements():
    found = fit(measured(TRUE))
    assert (found.base, found.alpha, found.beta) == pytest.approx((TRUE.base, TRUE.alpha, TRUE.beta), rel=1e-6)


def test_a_noisy_fit_reports_its_errors_including_for_unseen_hosts():
    found = fit_with_errors(measured(TRUE, noise=0.1))
    assert 0.02 < found.median_error < 0.15
    assert found.median_error < found.largest_error < 0.5
    assert found.unseen_error < 0.3
    assert found.cost.beta == pytest.approx(TRUE.beta, rel=0.2)


def test_no_parameter_is_negative():
    without_latency = [Reduction(n, size, 2 * (n - 1) / n * size / 1e8 * (1.2 if n == 2 else 0.9)) for n, size in GRID]
    found = fit(without_latency)
    assert min(found.base, found.alpha) >= 0
    assert found.beta == pytest.approx(1e8, rel=0.2)


def test_the_unseen_error_is_nan_with_two_numbers_of_hosts():
    assert math.isnan(fit_with_errors([reduction for reduction in measured(TRUE) if reduction.hosts < 4]).unseen_error)


def test_efficiency_is_1_for_one_worker_falls_with_workers_and_ignores_hidden_reductions():
    found = [efficiency(TRUE, workers, 0.5, 10**7) for workers in (1, 2, 8, 64, 512)]
    assert found[0] == 1
    assert found == sorted(found, reverse=True)
    assert efficiency(TRUE, 8, 0.5, 10**7, hidden=10.0) == 1


def test_the_model_reproduces_the_published_scaling_of_gloo_on_cpus():
    """Horovod's pull request 1120: ResNet-50 on CPUs with Gloo, 78, 61 and 47 % at 2, 4 and 8 machines."""
    model = from_efficiencies({2: 0.78, 4: 0.61})
    assert efficiency(model, 2, 1.0, 1) == pytest.approx(0.78)
    assert efficiency(model, 4, 1.0, 1) == pytest.approx(0.61)
    assert efficiency(model, 8, 1.0, 1) == pytest.approx(0.47, abs=0.03)
