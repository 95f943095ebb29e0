"""The meeting of ranks, each a thread, on this machine's own interfaces."""

import socket
import threading

import pytest

from pipelines.errors import LaunchError
from pipelines.launch.rendezvous import interfaces
from pipelines.launch.rendezvous.interfaces import HostDiscovery, discover_hosts

pytestmark = pytest.mark.timeout(30)


class Gathering:
    """`BarrierTaskContext.allGather` among threads."""

    def __init__(self, ranks):
        self._said = [""] * ranks
        self._barrier = threading.Barrier(ranks, timeout=20)

    def of(self, rank):
        def gather(text):
            self._said[rank] = text
            self._barrier.wait()
            heard = list(self._said)
            self._barrier.wait()
            return heard

        return gather


def met(*machines):
    """What each rank finds; a rank is given by its host's name and the addresses it believes to have."""
    gathering, found = Gathering(len(machines)), [None] * len(machines)

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
    """Sets what every machine believes to have, by its host's name."""
    # All on loopback, which answers at any address of 127.0.0.0/8; 127.0.0.1 counts as none.
    believed = {}
    monkeypatch.setattr(interfaces, "_addresses", lambda spark_address: dict(believed[spark_address]))
    return believed


@pytest.mark.parametrize("spark_address", ["127.0.0.1", "192.0.2.1"])
def test_ranks_on_one_machine_meet_on_loopback(spark_address):
    assert met(*[("a", spark_address)] * 3) == [HostDiscovery(("127.0.0.1",) * 3, "127.0.0.1", "lo")] * 3


def test_in_local_mode_nothing_listens(monkeypatch):
    served = []
    monkeypatch.setattr(socket, "create_server", served.append)
    met(("a", "127.0.0.1"), ("a", "127.0.0.1"))
    assert served == []


def unreachable(monkeypatch, lost):
    answers = interfaces._is_reachable
    monkeypatch.setattr(interfaces, "_is_reachable", lambda address, *rest: address != lost and answers(address, *rest))


def test_the_address_is_the_first_at_which_the_other_machine_answers(addresses, monkeypatch):
    addresses["one"] = {"127.0.0.11": "eth0"}
    addresses["two"] = {"127.0.0.12": "decoy", "127.0.0.22": "eth7", "127.0.0.32": "eth8"}
    unreachable(monkeypatch, "127.0.0.12")
    found = met(("same", "one"), ("same", "two"), ("same", "two"))
    assert found[0] == HostDiscovery(("127.0.0.11", "127.0.0.22", "127.0.0.22"), "127.0.0.11", "eth0")
    assert [(one.address, one.interface) for one in found[1:]] == [("127.0.0.22", "eth7")] * 2


def test_an_answer_of_another_machine_at_the_same_address_does_not_count(addresses):
    """Every host with docker has 172.17.0.1, and a call to it stays at home."""
    stranger = socket.create_server(("127.0.0.31", 0))

    def answer():
        with stranger.accept()[0] as caller:
            caller.sendall(b"who is calling?!")

    threading.Thread(target=answer, daemon=True).start()
    assert not interfaces._is_reachable("127.0.0.31", stranger.getsockname()[1], "0123456789abcdef")
    stranger.close()


def test_a_machine_that_cannot_be_reached_is_named_on_all_ranks(addresses, monkeypatch):
    addresses["one"], addresses["two"] = {"127.0.0.11": "eth0"}, {"127.0.0.12": "eth0"}
    unreachable(monkeypatch, "127.0.0.12")
    found = met(("alpha", "one"), ("beta", "two"))
    assert [type(error) for error in found] == [LaunchError] * 2
    assert str(found[0]) == str(found[1])
    assert str(found[0]).startswith("alpha cannot reach beta at any of its addresses (127.0.0.12): ")


def test_the_address_that_spark_uses_is_tried_first():
    own = interfaces._addresses("")
    for address in own:
        assert next(iter(interfaces._addresses(address))) == address
    assert not any(address.startswith("127.") for address in own)
