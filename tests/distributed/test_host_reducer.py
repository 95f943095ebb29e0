"""Averaging gradients in two levels, on ranks of one machine that take themselves for ranks of several."""

import sys

import numpy as np
import pytest
from support import ranks

from pipelines.config import LaunchConfig
from pipelines.launch.ranks import run
from pipelines.launch.workers.barrier import RankError

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="only used on Linux"),
]


@pytest.mark.parametrize(
    ("machines", "dtype", "compression", "tolerance"),
    [
        ("aabb", "float32", "none", 1e-6),
        ("abab", "float64", "none", 1e-15),
        ("aab", "float32", "none", 1e-6),
        ("abb", "float32", "float16", 2e-3),
    ],
)
def test_all_ranks_get_the_same_bits_which_are_the_mean_of_all(machines, dtype, compression, tolerance, tmp_path):
    arguments = (machines, dtype, compression, 20)
    by_rank = run(ranks.host_means, -len(machines), arguments, launch=LaunchConfig(runs_uri=str(tmp_path)))
    for step in zip(*by_rank, strict=True):
        for layer in range(5):
            means = [means[layer] for _, means, _ in step]
            expected = np.mean([gradients[layer] for gradients, _, _ in step], axis=0, dtype=np.float64)
            np.testing.assert_allclose(means[0], expected, atol=tolerance)
            assert {(mean.dtype.name, mean.shape, mean.tobytes()) for mean in means} == {
                (dtype, expected.shape, means[0].tobytes())
            }


def test_gradients_of_the_last_layer_are_added_up_while_those_of_the_first_are_computed(tmp_path):
    by_rank = run(ranks.begin_of_a_sum_and_end_of_a_gradient, -3, ("aab",), launch=LaunchConfig(runs_uri=str(tmp_path)))
    assert all(ready - begun > 0.3 for begun, ready in by_rank)


def test_waiting_for_a_slow_rank_of_its_machine_is_told(tmp_path):
    by_rank = run(ranks.host_means, -3, ("aab", "float32", "none", 6, 1), launch=LaunchConfig(runs_uri=str(tmp_path)))
    leader, slow, other = (np.median([held_up for *_, held_up in steps]) for steps in by_rank)
    assert leader > 0.1
    assert (slow, other) == (0, pytest.approx(0, abs=0.05))


@pytest.mark.parametrize("leaving", [0, 1])
def test_a_rank_that_exits_is_told_and_not_those_that_wait_for_it(leaving, tmp_path):
    with pytest.raises(RankError, match=rf"^rank {leaving} on \S+ failed: the process ended with exit code 3 "):
        run(ranks.exit_after_a_mean_over_machines, -3, ("aab", leaving), launch=LaunchConfig(runs_uri=str(tmp_path)))
