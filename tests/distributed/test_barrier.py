import platform
import time

import numpy as np
import pytest
from support import ranks
from support.rank_processes import processes_of_ranks, python_daemons, wait_until_no_rank_is_left

from pipelines.config import LaunchConfig
from pipelines.errors import LaunchError
from pipelines.launch.workers import barrier, spawn

TWO = LaunchConfig(workers=2)
pytestmark = pytest.mark.timeout(120)


def test_averaged_gradients_of_two_workers_equal_those_of_one_on_the_joint_batch(spark, tmp_path):
    rng = np.random.default_rng(1)
    features, targets, weights = rng.normal(size=(64, 5)), rng.normal(size=64), rng.normal(size=5)
    found = barrier.start(spark, ranks.joint_gradients, (features, targets, weights), launch=TWO, work_dir=tmp_path).results()
    expected = 2 * features.T @ (features @ weights - targets) / 64
    for gradient in found:
        np.testing.assert_allclose(gradient, expected, rtol=1e-10)


def test_a_forked_rank_is_as_one_started_afresh(spark, tmp_path, fork_server):
    one = LaunchConfig(workers=1)
    places = {"afresh": "", "forked": fork_server, "server gone": "convoy-nobody"}
    found = {
        started: barrier.start(spark, ranks.description, (), launch=one, work_dir=tmp_path, fork_server=server).results()[0]
        for started, server in places.items()
    }
    assert {started: rank.pop("tensorflow was there") for started, rank in found.items()} == {
        "afresh": False,
        "forked": True,
        "server gone": False,
    }
    # Horovod, once imported, holds C++'s source of random numbers: an instruction of Intel's processors, this file on AMD's.
    found["forked"]["open files"] = [file for file in found["forked"]["open files"] if file != "/dev/urandom"]
    assert found["forked"] == found["afresh"] == found["server gone"]
    assert found["forked"]["threads"] == 1
    assert "forked or not, this line is in the log" in (tmp_path / "logs" / "rank-0.log").read_text()


@pytest.mark.parametrize(
    ("purpose", "there"),
    [("training", ["tensorflow"]), ("anything", ["matplotlib", "mlflow.tensorflow", "sklearn", "tensorflow"])],
)
def test_a_single_training_waits_for_no_import_that_its_steps_do_without(spark, tmp_path, purpose, there):
    names = ("matplotlib", "mlflow.tensorflow", "sklearn", "tensorflow")
    with spawn.fork_server(purpose) as server:
        launch = barrier.start(
            spark, ranks.imported, (names,), launch=LaunchConfig(workers=1), work_dir=tmp_path, fork_server=server
        )
        assert launch.results() == [there]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere TensorFlow chooses its kernels")
@pytest.mark.parametrize("started", ["forked", "afresh"])
def test_ranks_compute_with_onednn_whatever_the_processor(spark, tmp_path, fork_server, started):
    server = fork_server if started == "forked" else ""
    launch = barrier.start(
        spark, ranks.computes_with_onednn, (), launch=LaunchConfig(workers=1), work_dir=tmp_path, fork_server=server
    )
    assert launch.results() == [True]


@pytest.fixture
def asleep(spark, tmp_path):
    """Starts two ranks that sleep, which end with the test whatever comes of it: they would take the slots of all later ones."""
    launches = []

    def start(server):
        launches.append(barrier.start(spark, ranks.sleep_for_ever, (), launch=TWO, work_dir=tmp_path, fork_server=server))
        while len(processes_of_ranks()) < 2:
            time.sleep(0.1)
        return launches[-1]

    yield start
    for launch in launches:
        launch.cancel()


def test_a_forked_rank_dies_with_its_task(asleep, fork_server):
    launch = asleep(fork_server)
    tasks = [worker for daemon in python_daemons() for worker in daemon.children()]
    assert len(tasks) >= 2
    for task in tasks:
        task.kill()
    with pytest.raises(barrier.RankError, match="its Spark task was lost"):
        launch.results()
    wait_until_no_rank_is_left()


def test_a_rank_dies_with_its_fork_server_and_is_reported(asleep, tmp_path):
    with spawn.fork_server("training") as server:
        launch = asleep(server)
    with pytest.raises(barrier.RankError, match="killed by SIGKILL"):
        launch.results()
    wait_until_no_rank_is_left()


def test_on_one_machine_everything_listens_on_loopback(spark, tmp_path):
    found = barrier.start(spark, ranks.network_environment, (), launch=TWO, work_dir=tmp_path).results()
    assert [environment["HOROVOD_RANK"] for environment in found] == ["0", "1"]
    assert {environment["HOROVOD_GLOO_IFACE"] for environment in found} == {"lo"}
    assert {environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"] for environment in found} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("action", "headline"),
    [
        ("raise", r"^rank 1 on \S+ failed: ValueError: deliberate failure \(its log: "),
        ("kill", r"^rank 1 on \S+ failed: killed by SIGKILL"),
    ],
)
@pytest.mark.parametrize("started", ["forked", "afresh"])
def test_a_rank_that_fails_ends_the_job_within_ten_seconds_and_is_the_headline(
    spark, tmp_path, fork_server, action, headline, started
):
    server = fork_server if started == "forked" else ""
    launch = barrier.start(spark, ranks.reduce_for_ever, (action,), launch=TWO, work_dir=tmp_path, fork_server=server)
    with pytest.raises(barrier.RankError, match=headline) as caught:
        launch.results()
    assert time.time() - caught.value.failures[0].time < 10
    if action == "raise":
        assert caught.value.details.startswith("Traceback (most recent call last)")
        assert 'raise ValueError("deliberate failure")' in caught.value.details
        assert "deliberate failure" in (tmp_path / "logs" / "rank-1.log").read_text()
    else:
        assert caught.value.details == ""
    wait_until_no_rank_is_left()


def test_a_cancelled_launch_leaves_no_process(asleep, fork_server):
    launch = asleep(fork_server)
    started = time.monotonic()
    launch.cancel()
    assert launch.done
    wait_until_no_rank_is_left()
    assert time.monotonic() - started < 10


def test_more_workers_than_slots_are_refused_at_once(spark, tmp_path):
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"launch\.workers=3: only 2 task slots are available \(local\[2\]\)"):
        barrier.start(spark, ranks.sleep_for_ever, (), launch=LaunchConfig(workers=3), work_dir=tmp_path)
    assert time.monotonic() - started < 1


def test_weights_that_differ_between_ranks_are_found(spark, tmp_path):
    launch = barrier.start(spark, ranks.unequal_state, (), launch=TWO, work_dir=tmp_path)
    with pytest.raises(barrier.RankError, match=r"before training: weights or optimizer state of ranks \[1\] differ from rank 0"):
        launch.results()
