"""A short soak: whole jobs with something killed every few seconds (`./convoy bench soak` is the long one)."""

import os
import subprocess
import sys

import pytest

from benchmarks.processes import ROOT

pytestmark = pytest.mark.timeout(420)


def test_a_job_with_four_kills_ends_like_an_undisturbed_one_and_leaves_nothing_behind():
    # A rank, the fork server, the driver and a supervisor, each while there is one.
    words = [sys.executable, "-m", "benchmarks.soak", "local", "--kills", "4", "--epochs", "12", "--gap", "6", "--seed", "3824"]
    # A process of its own: all that it has started counts as part of the training.
    done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "local: kill 1: rank" in done.stdout
    assert "local: 4 kills in " in done.stdout
    assert "weights and metrics are the same, nothing is left" in done.stdout
