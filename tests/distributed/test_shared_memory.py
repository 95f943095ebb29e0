"""Allreduce of gradients through shared memory."""

import dataclasses
import sys

import numpy as np
import pytest
from support import ranks

from pipelines.config import LaunchConfig
from pipelines.launch.health.failures import Failure
from pipelines.launch.ranks import run
from pipelines.train.collectives import shared_memory

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="only used on Linux"),
]


@pytest.fixture
def launch(tmp_path):
    return LaunchConfig(runs_uri=str(tmp_path))


def test_all_ranks_get_the_same_bits_which_are_the_mean_of_all_inputs(launch):
    results = run(ranks.shared_memory_means, -3, (10_001, 50), launch=launch)
    calls = (zip(*values, strict=True) for values in zip(*results, strict=True))
    for inputs, means in zip(*calls, strict=True):
        np.testing.assert_allclose(means[0], np.mean(inputs, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
        assert {mean.tobytes() for mean in means} == {means[0].tobytes()}


def test_the_exit_of_a_rank_reaches_the_others_as_an_effect(launch):
    *others, last = run(ranks.leave_after_two_means, -3, launch=launch)
    assert (others, last) == ([shared_memory.PEER_EXITED] * 2, "left")
    assert Failure(rank=0, host="a", time=0.0, error=f"ConnectionError: {others[0]}", traceback="", log_path="").is_effect


def test_a_rank_may_stand_still_for_longer_than_the_start_may_take(launch):
    """As on a machine that swaps; the limit of that is launch.stall_shutdown_seconds."""
    launch = dataclasses.replace(launch, start_timeout_seconds=1, stall_warning_seconds=10, stall_shutdown_seconds=20)
    assert run(ranks.means_while_rank_1_stands_still, -2, (2.5,), launch=launch) == [[0.5] * 4] * 2
