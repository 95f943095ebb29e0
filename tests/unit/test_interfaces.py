"""Host discovery between ranks, each in a thread, on this machine's own interfaces."""

import socket
import threading

import pytest

from pipelines.errors import LaunchError
from pipelines.launch.rendezvous import interfaces
from pipelines.launch.rendezvous.interfaces import HostDiscovery, discover_hosts

pytestmark = pytest.mark.timeout(30)


class AllGather:
    """`BarrierTaskContext.allGather` between threads."""

    def __init__(self, ranks):
        self._texts = [""] * ranks
        self._barrier = threading.Barrier(ranks, timeout=20)

    def of(self, rank):
        def gather(text):
            self._texts[rank] = text
            self._barrier.wait()
            texts = list(self._texts)
            self._barrier.wait()
            return texts

        return gather


def discover(*machines):
    """What each rank discovers; a rank is given by its host's name and the address by which Spark knows it."""
    gathering, found = AllGather(len(machines)), [None] * len(machines)

    def rank(number):
        name, spark_address = machines[number]
        try:
            found[number] = discover_hosts(number, name, spark_address, gathering.of(number))
        except LaunchError as error:
            found[number] = error

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(machines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def addresses(monkeypatch):
    """Own addresses of each machine, by its Spark address."""
    # All on loopback, which accepts any address in 127.0.0.0/8; 127.0.0.1 is excluded.
    own = {}
    monkeypatch.setattr(interfaces, "_addresses", lambda spark_address: dict(own[spark_address]))
    return own


@pytest.mark.parametrize("spark_address", ["127.0.0.1", "192.0.2.1"])
def test_ranks_on_one_machine_use_loopback(spark_address):
    assert discover(*[("a", spark_address)] * 3) == [HostDiscovery(("127.0.0.1",) * 3, "127.0.0.1", "lo")] * 3


def test_in_local_mode_nothing_listens(monkeypatch):
    listeners = []
    monkeypatch.setattr(socket, "create_server", listeners.append)
    discover(("a", "127.0.0.1"), ("a", "127.0.0.1"))
    assert listeners == []


def make_unreachable(monkeypatch, lost):
    is_reachable = interfaces._is_reachable
    monkeypatch.setattr(interfaces, "_is_reachable", lambda address, *rest: address != lost and is_reachable(address, *rest))


def test_the_first_address_at_which_the_other_machine_replies_is_used(addresses, monkeypatch):
    addresses["one"] = {"127.0.0.11": "eth0"}
    addresses["two"] = {"127.0.0.12": "decoy", "127.0.0.22": "eth7", "127.0.0.32": "eth8"}
    make_unreachable(monkeypatch, "127.0.0.12")
    found = discover(("same", "one"), ("same", "two"), ("same", "two"))
    assert found[0] == HostDiscovery(("127.0.0.11", "127.0.0.22", "127.0.0.22"), "127.0.0.11", "eth0")
    assert [(rank.address, rank.interface) for rank in found[1:]] == [("127.0.0.22", "eth7")] * 2


def test_a_reply_of_another_machine_at_the_same_address_does_not_count(addresses):
    """Every host with docker has 172.17.0.1, and a connection to it stays on the host."""
    stranger = socket.create_server(("127.0.0.31", 0))

    def reply():
        with stranger.accept()[0] as connection:
            connection.sendall(b"another's token!")

    threading.Thread(target=reply, daemon=True).start()
    assert not interfaces._is_reachable("127.0.0.31", stranger.getsockname()[1], "0123456789abcdef")
    stranger.close()


def test_an_unreachable_machine_is_named_on_all_ranks(addresses, monkeypatch):
    addresses["one"], addresses["two"] = {"127.0.0.11": "eth0"}, {"127.0.0.12": "eth0"}
    make_unreachable(monkeypatch, "127.0.0.12")
    found = discover(("alpha", "one"), ("beta", "two"))
    assert [type(error) for error in found] == [LaunchError] * 2
    assert str(found[0]) == str(found[1])
    assert str(found[0]).startswith("alpha cannot reach beta at any of its addresses (127.0.0.12): ")


def test_the_address_that_spark_uses_is_tried_first():
    own = interfaces._addresses("")
    for address in own:
        assert next(iter(interfaces._addresses(address))) == address
    assert not any(address.startswith("127.") for address in own)
