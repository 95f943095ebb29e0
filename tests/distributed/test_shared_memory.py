"""Gradients through the memory of one machine."""

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
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Horovod averages all gradients"),
]


@pytest.fixture
def launch(tmp_path):
    return LaunchConfig(runs_uri=str(tmp_path))


def test_every_rank_gets_the_same_bits_which_are_the_mean_of_what_all_gave(launch):
    found = run(ranks.shared_memory_means, -3, (10_001, 50), launch=launch)
    for given, got in zip(
        zip(*(given for given, _ in found), strict=True), zip(*(got for _, got in found), strict=True), strict=True
    ):
        np.testing.assert_allclose(got[0], np.mean(given, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
        assert {values.tobytes() for values in got} == {got[0].tobytes()}


def test_the_end_of_a_rank_is_told_to_the_others_as_an_effect(launch):
    *others, last = run(ranks.leave_after_two_means, -3, launch=launch)
    assert (others, last) == ([shared_memory.PEER_EXITED] * 2, "left")
    assert Failure(rank=0, host="a", time=0.0, error=f"ConnectionError: {others[0]}", traceback="", log_path="").is_effect
