"""Ranks on several hosts: own addresses, names, interfaces and Spark daemons, in name spaces of this machine."""

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
    pytest.mark.skipif(bool(why_not()), reason=f"no hosts can be made: {why_not()}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three hosts with two task slots each. Of two of them Spark has an address that nobody can reach."""
    folder = tmp_path_factory.mktemp("hosts")
    names = ("right", "loopback", "decoy")
    # A machine that is busy with other things lets daemons wait for seconds.
    with Cluster(folder, hosts=3, cores=2, own_names=names, python_path=[TESTS], lost_after=8) as made:
        yield made


@pytest.fixture(scope="module")
def driver(cluster):
    with cluster.driver() as made:
        deadline = time.monotonic() + 60
        while made.call(hostcalls.task_slots) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield made


# Between hosts Horovod adds up, in another order than ranks that share memory do.
def in_local_mode(workers, table, folder, fork_server, *settings):
    """The same training with as many ranks on this machine."""
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


def seen(run_dir, rank, activity):
    """Wait until a rank of the first start is at something, as a regular expression. Gives its host's name."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        last = heartbeat.read(run_dir / "attempts" / "001", rank)
        if last is not None and re.match(activity, last.progress.activity):
            return last.host
        time.sleep(0.02)
    raise AssertionError(f"rank {rank} was not seen at {activity!r}")


def disturbed(disturb, cluster, driver, settings, table, run_dir, function=None):
    """A training; in the second epoch something happens to the host of rank 1. Gives what `train` gives, and the host."""
    with ThreadPoolExecutor() as pool:
        training = pool.submit(driver.call, hostcalls.train, settings, table, str(run_dir), function)
        # A rank tells once a second where it is, and an epoch may take less.
        name = seen(run_dir, 1, r"epoch ([2-9]|\d\d), step")
        (host,) = [one for one in cluster.workers if one.name == name]
        disturb(host)
        return (*training.result(), host)


def host_at(cluster, address):
    (found,) = [host for host in cluster.workers if host.address == address]
    return found


def test_ranks_know_their_place_and_meet_where_they_can_reach_each_other(cluster, driver, tmp_path):
    # Two machines of the same name are still two.
    for host in cluster.workers[:2]:
        host.run("hostname", "localhost")
    try:
        found = driver.call(hostcalls.run, hostcalls.place, 6, tmp_path)
    finally:
        for host in cluster.workers[:2]:
            host.run("hostname", host.name)
    assert {rank["address"]: rank["iface"] for rank in found} == {host.address: host.interface for host in cluster.workers}
    assert {rank["rendezvous_addr"] for rank in found} == {found[0]["address"]}
    # The driver's, of which workers have not heard.
    assert {rank["folder"] for rank in found} == {driver.call(hostcalls.folder)}
    order = list(dict.fromkeys(rank["address"] for rank in found))
    for number, rank in enumerate(found):
        before = [other["address"] for other in found[:number]]
        assert (rank["rank"], rank["local_rank"], rank["local_size"]) == (number, before.count(rank["address"]), 2)
        assert (rank["cross_rank"], rank["cross_size"]) == (order.index(rank["address"]), 3)


def test_a_rank_on_each_of_three_hosts_trains_as_three_on_one_and_feels_a_slow_network(
    cluster, driver, table, tmp_path, fork_server
):
    work = hostcalls.TimedReductions(str(tmp_path), numbers=50_000)
    with ThreadPoolExecutor() as pool:
        settings = [*SETTINGS, "launch.workers=3"]
        training = pool.submit(driver.call, hostcalls.train, settings, table, str(tmp_path / "hosts"), work)

        def reduced(part):
            """Mean seconds of a reduction, now."""
            (tmp_path / f"again-{part}").touch()
            while not (tmp_path / f"done-{part}").exists():
                assert not training.done(), training.result()
                time.sleep(0.02)
            return float((tmp_path / f"done-{part}").read_text())

        undisturbed = reduced(0)
        with cluster.network.delay(0.02):
            delayed = reduced(1)
        cluster.network.limit(megabits=10)
        limited = reduced(2)
        cluster.network.limit(0)
        results, told, error = training.result()
    # In a ring of three every part is passed on four times, 20 ms each; and at 10 Mbit/s 267 kB take 0.2 s.
    assert delayed > undisturbed + 0.06
    assert limited > undisturbed + 0.05
    assert (told, error) == ([], "")
    local = in_local_mode(3, table, tmp_path / "local", fork_server)
    assert results[0].test == local[0].test
    assert results[0].test.accuracy > 0.9
    assert {result.weights_sha256 for result in results} == {local[0].weights_sha256}


def test_ranks_of_a_host_cut_off_in_mid_epoch_go_on_elsewhere_two_on_each_of_two_hosts_as_four_on_one(
    cluster, driver, table, tmp_path, fork_server
):
    settings = [*SETTINGS, "launch.workers=4", "training.epochs=15"]
    results, told, error, host = disturbed(cluster.network.cut, cluster, driver, settings, table, tmp_path / "hosts")
    assert error == ""
    assert len(told) == 1
    assert told[0].startswith(f"restart 1 of 2: rank 1 on {host.name} failed: its Spark task was lost")
    assert re.search(r"training goes on from the checkpoint of epoch \d+$", told[0])
    local = in_local_mode(4, table, tmp_path / "local", fork_server, "training.epochs=15")
    assert {result.weights_sha256 for result in results} == {local[0].weights_sha256}
    assert results[0].test == local[0].test


def test_where_slots_are_gone_a_training_goes_on_with_fewer_workers_if_it_may(cluster, driver, table, tmp_path):
    slots = driver.call(hostcalls.task_slots)
    settings = [*SETTINGS, f"launch.workers={slots}", "launch.min_workers=2"]
    results, told, error, host = disturbed(Host.crash, cluster, driver, settings, table, tmp_path, hostcalls.wait_for_mishap)
    assert error == ""
    assert [workers for workers, _ in results] == [slots - 2] * (slots - 2)
    assert host.address not in {address for _, address in results}
    assert told[1:] == [f"{slots - 2} of {slots} workers go on: there are no task slots for more"]


def test_without_restarts_it_ends_in_one_line_that_names_the_host(cluster, driver, table, tmp_path):
    slots = driver.call(hostcalls.task_slots)
    settings = [*SETTINGS, f"launch.workers={slots}", "launch.max_restarts=0"]
    results, told, error, host = disturbed(Host.crash, cluster, driver, settings, table, tmp_path, hostcalls.wait_for_mishap)
    assert (results, told) == (None, [])
    assert error.startswith("RankError: rank ")
    assert f" on {host.name} failed: its Spark task was lost" in error
    assert "\n" not in error
