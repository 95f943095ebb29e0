"""Ranks on several hosts with their own addresses, names, interfaces and Spark daemons, in namespaces of this machine."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from support import hostcalls

from benchmarks.cluster.cluster import Cluster
from benchmarks.cluster.network import Host, why_not
from pipelines.config import loader
from pipelines.launch.health import heartbeat
from pipelines.launch.train_function import work
from pipelines.launch.workers.supervisor import Assignment, run_locally
from pipelines.track.rundir import layout

TESTS = Path(__file__).parents[1]
# `./convoy bench symptoms` takes those of a training.
WINDOW_SECONDS = float(os.environ.get("CONVOY_SYMPTOM_WINDOW", "3"))
SETTINGS = [
    "model.name=convnet",
    "training.epochs=3",
    "training.precision=float32",
    "training.batch_size_per_worker=8",
    "launch.threads_per_worker=1",
    "launch.start_timeout_seconds=150",
]
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=f"hosts cannot be simulated: {why_not()}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three hosts with two task slots each. For two of them, Spark has an address that the others cannot reach."""
    folder = tmp_path_factory.mktemp("hosts")
    names = ("right", "loopback", "decoy")
    # On a busy machine, daemons are delayed by seconds.
    with Cluster(folder, hosts=3, cores=2, own_names=names, python_path=[TESTS], lost_after=8) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def driver(cluster):
    with cluster.driver() as running:
        await_all_slots(running)
        yield running


def await_all_slots(driver):
    deadline = time.monotonic() + 60
    while driver.call(hostcalls.task_slots) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.2)


# Without shared memory, because between hosts Horovod sums gradients, in another order.
def in_local_mode(workers, table, folder, fork_server, *settings):
    """The same training with the same number of ranks on this machine."""
    config = loader.load(None, [*SETTINGS, f"launch.workers={workers}", "launch.shared_memory=false", *settings])
    (folder / "logs").mkdir(parents=True)
    assignment = Assignment(
        payload=cloudpickle.dumps((work, (config, table, str(folder)))),
        launch=config.launch,
        work_dir=str(folder),
        attempt_dir=str(layout.new_attempt(folder)),
        fork_server=fork_server,
    )
    with run_locally(assignment) as ranks:
        return [cloudpickle.loads(rank.result()) for rank in ranks]


@pytest.fixture(scope="module")
def four_on_one(table, fork_server, tmp_path_factory):
    return in_local_mode(4, table, tmp_path_factory.mktemp("local") / "run", fork_server, "training.epochs=15")


def wait_until_seen(run_dir, rank, activity):
    """Wait until the activity of a rank of the first attempt matches a regular expression. Returns its host's name."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        last = heartbeat.read(run_dir / "attempts" / "001", rank)
        if last is not None and re.match(activity, last.progress.activity):
            return last.host
        time.sleep(0.02)
    raise AssertionError(f"rank {rank} was not seen at {activity!r}")


def train_disturbed(disturb, cluster, driver, settings, table, run_dir, function=None):
    """Train, and disturb rank 1's host from the second epoch on. Returns what `train` returns, and the host."""
    with ThreadPoolExecutor() as pool:
        training = pool.submit(driver.call, hostcalls.train, settings, table, str(run_dir), function, seconds=240)
        # Heartbeats come once a second, and an epoch may take less.
        name = wait_until_seen(run_dir, 1, r"epoch ([2-9]|\d\d), step")
        (host,) = [worker for worker in cluster.workers if worker.name == name]
        disturb(host)
        return (*training.result(), host)


def test_ranks_are_placed_correctly_and_use_addresses_at_which_they_reach_each_other(cluster, driver, tmp_path):
    # Hosts with the same name must not be taken for one.
    for host in cluster.workers[:2]:
        host.run("hostname", "localhost")
    try:
        found = driver.call(hostcalls.run, hostcalls.placement, 6, tmp_path)
    finally:
        for host in cluster.workers[:2]:
            host.run("hostname", host.name)
    assert {rank["address"]: rank["iface"] for rank in found} == {host.address: host.interface for host in cluster.workers}
    assert {rank["rendezvous_addr"] for rank in found} == {found[0]["address"]}
    # The driver's folder, which the workers' own settings do not contain.
    assert {rank["folder"] for rank in found} == {driver.call(hostcalls.folder)}
    order = list(dict.fromkeys(rank["address"] for rank in found))
    for number, rank in enumerate(found):
        before = [other["address"] for other in found[:number]]
        assert (rank["rank"], rank["local_rank"], rank["local_size"]) == (number, before.count(rank["address"]), 2)
        assert (rank["cross_rank"], rank["cross_size"]) == (order.index(rank["address"]), 3)


def test_one_rank_on_each_of_three_hosts_trains_like_three_on_one_and_depends_on_the_network(
    cluster, driver, table, tmp_path, fork_server
):
    work = hostcalls.TimedReductions(str(tmp_path), numbers=50_000)
    with ThreadPoolExecutor() as pool:
        settings = [*SETTINGS, "launch.workers=3"]
        training = pool.submit(driver.call, hostcalls.train, settings, table, str(tmp_path / "hosts"), work)

        def reduction_seconds(part):
            """Mean time of an allreduce under the present network conditions."""
            (tmp_path / f"again-{part}").touch()
            while not (tmp_path / f"done-{part}").exists():
                assert not training.done(), training.result()
                time.sleep(0.02)
            return float((tmp_path / f"done-{part}").read_text())

        undisturbed = reduction_seconds(0)
        with cluster.network.delay(0.02):
            delayed = reduction_seconds(1)
        cluster.network.limit(megabits=10)
        limited = reduction_seconds(2)
        cluster.network.limit(0)
        results, told, error = training.result()
    # In a ring of three, each part is sent four times, at 20 ms each; and at 10 Mbit/s, 267 kB take 0.2 s.
    assert delayed > undisturbed + 0.06
    assert limited > undisturbed + 0.05
    (clock,) = told
    assert clock.startswith("the clock of rank 1 on ")
    assert error == ""
    local = in_local_mode(3, table, tmp_path / "local", fork_server)
    assert results[0].test == local[0].test
    assert results[0].test.accuracy > 0.9
    assert {result.weights_sha256 for result in results} == {local[0].weights_sha256}


def test_ranks_of_which_two_share_a_host_train_like_those_on_one_machine(cluster, driver, table, tmp_path, fork_server):
    settings = ["launch.workers=4", "training.bucket_mb=0.01"]
    ways = {driver.call(hostcalls.run, hostcalls.reduction, ranks, tmp_path)[0] for ranks in (4, 6)}
    assert ways == {"several machines"}
    results, told, error = driver.call(hostcalls.train, [*SETTINGS, *settings], table, str(tmp_path / "hosts"))
    assert (told, error) == ([], "")
    local = in_local_mode(4, table, tmp_path / "local", fork_server, *settings)
    assert len({result.weights_sha256 for result in results}) == 1
    # They differ in the order of summation.
    assert results[0].test.loss == pytest.approx(local[0].test.loss, rel=1e-3)
    assert results[0].test.accuracy == pytest.approx(local[0].test.accuracy, abs=0.011)


def test_a_slow_link_and_one_that_loses_data_are_told_with_the_host_that_has_it(
    cluster, driver, table, tmp_path, record_property
):
    def await_symptom(kind):
        began = time.monotonic()
        while time.monotonic() < began + 60:
            lines = (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []
            found = [line for found, _, line, _ in map(json.loads, lines) if found == kind]
            if found:
                record_property(kind, time.monotonic() - began)
                return found[0]
            assert not training.done(), training.result()
            time.sleep(0.1)
        raise AssertionError(lines)

    settings = [*SETTINGS, "launch.workers=3", "training.epochs=10000"]
    with ThreadPoolExecutor() as pool:
        training = pool.submit(driver.call, hostcalls.train_watched, settings, table, str(tmp_path), WINDOW_SECONDS)
        try:
            name = wait_until_seen(tmp_path, 1, r"epoch ([2-9]|\d\d), step")
            (host,) = [worker for worker in cluster.workers if worker.name == name]
            cluster.network.limit(5, only=host)
            slow = await_symptom("slow link")
            cluster.network.limit(0, only=host)
            with cluster.network.delay(0.001, lost=0.05, only=host):
                lossy = await_symptom("lossy link")
        finally:
            (tmp_path / "end").touch()
            training.result(timeout=60)
    assert slow.startswith(f"the link of rank 1 on {host.name} is slow: ")
    assert re.search(r" is slow: 0\.[3-7] MB/s while it sends", slow)
    assert lossy.startswith(f"the link of rank 1 on {host.name} to 10.77.0.")
    assert "of its segments were sent again" in lossy


def test_before_a_host_is_taken_away_a_checkpoint_is_written_and_the_others_go_on_from_there(
    cluster, driver, table, tmp_path, four_on_one
):
    def shut_down(host):
        # Inside the namespace, -1 means all processes except its init.
        host.run("sh", "-c", "kill -TERM -1")

    settings = [*SETTINGS, "launch.workers=4", "training.epochs=15", "launch.shared_memory=false"]
    results, told, error, host = train_disturbed(shut_down, cluster, driver, settings, table, tmp_path / "hosts")
    cluster.start_worker(host)
    await_all_slots(driver)
    assert error == ""
    (restart,) = told
    assert restart.startswith("restart 1 of 2: rank ")
    assert f" on {host.name} failed: received SIGTERM, as before its node is taken away" in restart
    assert re.search(r"training continues from the checkpoint of epoch \d+(, step \d+)?$", restart)
    assert {result.weights_sha256 for result in results} == {four_on_one[0].weights_sha256}


def test_after_a_host_is_cut_off_in_mid_epoch_two_ranks_on_each_of_two_hosts_train_like_four_on_one(
    cluster, driver, table, tmp_path, four_on_one
):
    settings = [*SETTINGS, "launch.workers=4", "training.epochs=15", "launch.shared_memory=false"]
    results, told, error, host = train_disturbed(cluster.network.cut, cluster, driver, settings, table, tmp_path / "hosts")
    assert error == ""
    assert len(told) == 1
    # Whichever of the two ranks there Spark tells first.
    assert re.match(rf"restart 1 of 2: rank [13] on {host.name} failed: its Spark task was lost", told[0])
    assert re.search(r"training continues from the checkpoint of epoch \d+$", told[0])
    assert {result.weights_sha256 for result in results} == {four_on_one[0].weights_sha256}
    assert results[0].test == four_on_one[0].test


def test_when_slots_are_lost_a_training_continues_with_fewer_workers_if_allowed(cluster, driver, table, tmp_path):
    slots = driver.call(hostcalls.task_slots)
    settings = [*SETTINGS, f"launch.workers={slots}", "launch.min_workers=2"]
    results, told, error, host = train_disturbed(Host.crash, cluster, driver, settings, table, tmp_path, hostcalls.wait_for_fault)
    assert error == ""
    assert [workers for workers, _ in results] == [slots - 2] * (slots - 2)
    assert host.address not in {address for _, address in results}
    assert told[1:] == [f"continuing with {slots - 2} of {slots} workers: there are no task slots for more"]


def test_without_restarts_a_training_ends_with_one_line_that_names_the_host(cluster, driver, table, tmp_path):
    slots = driver.call(hostcalls.task_slots)
    settings = [*SETTINGS, f"launch.workers={slots}", "launch.max_restarts=0"]
    results, told, error, host = train_disturbed(Host.crash, cluster, driver, settings, table, tmp_path, hostcalls.wait_for_fault)
    assert (results, told) == (None, [])
    assert error.startswith("RankError: rank ")
    assert f" on {host.name} failed: its Spark task was lost" in error
    assert "\n" not in error
