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


def test_averaged_gradients_of_two_workers_equal_one_workers_on_the_joint_batch(spark, tmp_path):
    rng = np.random.default_rng(1)
    features, targets, weights = rng.normal(size=(64, 5)), rng.normal(size=64), rng.normal(size=5)
    results = barrier.start(spark, ranks.joint_gradients, (features, targets, weights), launch=TWO, work_dir=tmp_path).results()
    expected = 2 * features.T @ (features @ weights - targets) / 64
    for gradient in results:
        np.testing.assert_allclose(gradient, expected, rtol=1e-10)


def test_a_forked_rank_equals_one_started_as_a_new_process(spark, tmp_path, fork_server):
    one = LaunchConfig(workers=1)
    servers = {"new process": "", "forked": fork_server, "no server": "convoy-nobody"}
    found = {
        started: barrier.start(spark, ranks.description, (), launch=one, work_dir=tmp_path, fork_server=server).results()[0]
        for started, server in servers.items()
    }
    assert {started: rank.pop("tensorflow imported") for started, rank in found.items()} == {
        "new process": False,
        "forked": True,
        "no server": False,
    }
    # Horovod keeps C++'s random device open, which is an instruction on Intel's CPUs and this file on AMD's.
    found["forked"]["open files"] = [file for file in found["forked"]["open files"] if file != "/dev/urandom"]
    assert found["forked"] == found["new process"] == found["no server"]
    # The heartbeat, and the one that hears signals.
    assert found["forked"]["threads"] == 2
    assert "this line is in the log of any rank" in (tmp_path / "logs" / "rank-0.log").read_text()


# What MLflow imports with itself depends on its version.
@pytest.mark.parametrize(
    ("purpose", "needed", "unneeded"),
    [
        ("training", {"tensorflow"}, {"matplotlib", "mlflow.tensorflow", "sklearn"}),
        ("anything", {"mlflow.tensorflow", "tensorflow"}, set()),
    ],
)
def test_a_single_training_does_not_wait_for_imports_that_its_steps_do_not_need(spark, tmp_path, purpose, needed, unneeded):
    names = ("matplotlib", "mlflow.tensorflow", "sklearn", "tensorflow")
    with spawn.fork_server(purpose) as server:
        launch = barrier.start(
            spark, ranks.imported, (names,), launch=LaunchConfig(workers=1), work_dir=tmp_path, fork_server=server
        )
        (found,) = launch.results()
    assert needed <= set(found)
    assert not unneeded & set(found)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorFlow has oneDNN kernels on x86-64")
@pytest.mark.parametrize("started", ["forked", "new process"])
def test_ranks_compute_with_onednn_on_any_processor(spark, tmp_path, fork_server, started):
    server = fork_server if started == "forked" else ""
    launch = barrier.start(
        spark, ranks.computes_with_onednn, (), launch=LaunchConfig(workers=1), work_dir=tmp_path, fork_server=server
    )
    assert launch.results() == [True]


@pytest.fixture
def start_sleeping(spark, tmp_path):
    """Starts two sleeping ranks, and ends them with the test in any case: they would take the slots of later tests."""
    launches = []

    def start(server):
        launches.append(barrier.start(spark, ranks.sleep_forever, (), launch=TWO, work_dir=tmp_path, fork_server=server))
        while len(processes_of_ranks()) < 2:
            time.sleep(0.1)
        return launches[-1]

    yield start
    for launch in launches:
        launch.cancel()


def test_a_forked_rank_dies_with_its_task(start_sleeping, fork_server):
    launch = start_sleeping(fork_server)
    tasks = [worker for daemon in python_daemons() for worker in daemon.children()]
    assert len(tasks) >= 2
    for task in tasks:
        task.kill()
    with pytest.raises(barrier.RankError, match="its Spark task was lost"):
        launch.results()
    wait_until_no_rank_is_left()


def test_a_rank_dies_with_its_fork_server_and_is_reported(start_sleeping, tmp_path):
    with spawn.fork_server("training") as server:
        launch = start_sleeping(server)
    with pytest.raises(barrier.RankError, match="killed by SIGKILL"):
        launch.results()
    wait_until_no_rank_is_left()


def test_on_one_machine_everything_listens_on_loopback(spark, tmp_path):
    environments = barrier.start(spark, ranks.network_environment, (), launch=TWO, work_dir=tmp_path).results()
    assert [environment["HOROVOD_RANK"] for environment in environments] == ["0", "1"]
    assert {environment["HOROVOD_GLOO_IFACE"] for environment in environments} == {"lo"}
    assert {environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"] for environment in environments} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("action", "headline"),
    [
        ("raise", r"^rank 1 on \S+ failed: ValueError: deliberate failure \(its log: "),
        ("kill", r"^rank 1 on \S+ failed: killed by SIGKILL"),
    ],
)
@pytest.mark.parametrize("started", ["forked", "new process"])
def test_a_failing_rank_ends_the_job_within_ten_seconds_and_is_the_headline(
    spark, tmp_path, fork_server, action, headline, started
):
    server = fork_server if started == "forked" else ""
    launch = barrier.start(spark, ranks.reduce_forever, (action,), launch=TWO, work_dir=tmp_path, fork_server=server)
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


def test_a_cancelled_launch_leaves_no_process(start_sleeping, fork_server):
    launch = start_sleeping(fork_server)
    started = time.monotonic()
    launch.cancel()
    assert launch.done
    wait_until_no_rank_is_left()
    assert time.monotonic() - started < 10


def test_more_workers_than_slots_are_rejected_immediately(spark, tmp_path):
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"launch\.workers=3: only 2 task slots are available \(local\[2\]\)"):
        barrier.start(spark, ranks.sleep_forever, (), launch=LaunchConfig(workers=3), work_dir=tmp_path)
    assert time.monotonic() - started < 1


def test_weights_that_differ_between_ranks_are_detected(spark, tmp_path):
    launch = barrier.start(spark, ranks.unequal_state, (), launch=TWO, work_dir=tmp_path)
    with pytest.raises(barrier.RankError, match=r"before training: weights or optimizer state of ranks \[1\] differ from rank 0"):
        launch.results()
