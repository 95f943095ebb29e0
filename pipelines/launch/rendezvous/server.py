"""Horovod's rendezvous server and its view of the ranks. Rank 0 runs it, or the driver if all ranks are on its machine."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

from pipelines.launch.rendezvous import interfaces
from pipelines.launch.rendezvous.interfaces import LOOPBACK, Gather


@dataclass(frozen=True)
class RankPlacement:
    """What a rank needs to know to join the others."""

    slot: SlotInfo
    server: str
    """ADDRESS:PORT of the rendezvous server."""
    interface: str
    """The network interface on which the ranks reach each other."""
    machines: Sequence[str]
    """The machine of each rank."""


@contextlib.contextmanager
def distributed_rendezvous(rank: int, host: str, spark_address: str, gather: Gather) -> Iterator[RankPlacement]:
    """Discover the hosts of all ranks, and serve their rendezvous while the block runs.

    Args:
        rank, host, spark_address, gather: as in `pipelines.launch.rendezvous.interfaces.discover_hosts`.

    Raises:
        LaunchError: hosts cannot reach each other; raised on all ranks.
    """
    discovery = interfaces.discover_hosts(rank, host, spark_address, gather)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(discovery.address)) if rank == 0 else None
        address = gather(_address_of(server) if server else "")[0]
        if server is not None:
            stack.enter_context(_serving(server, discovery.machines))
        yield RankPlacement(slot_info(rank, discovery.machines), address, discovery.interface, discovery.machines)


@contextlib.contextmanager
def local_rendezvous(ranks: int) -> Iterator[list[RankPlacement]]:
    """Serve the rendezvous of ranks on this machine while the block runs. Yields their placements, in rank order."""
    machines, interface = (LOOPBACK,) * ranks, interfaces.interface_of(LOOPBACK)
    with _listening(LOOPBACK) as server, _serving(server, machines):
        yield [RankPlacement(slot_info(rank, machines), _address_of(server), interface, machines) for rank in range(ranks)]


def slot_info(rank: int, machines: Sequence[str]) -> SlotInfo:
    """Horovod's view of a rank, given the host of every rank.

    The local rank counts the preceding ranks on its host; the cross rank counts the preceding hosts that have this local rank.
    Horovod identifies hosts by name, so no two hosts may have the same name here.
    """
    machine = machines[rank]
    local_rank = machines[:rank].count(machine)
    with_local_rank = [other for other in dict.fromkeys(machines) if machines.count(other) > local_rank]
    return SlotInfo(
        hostname=machine,
        rank=rank,
        size=len(machines),
        local_rank=local_rank,
        local_size=machines.count(machine),
        cross_rank=with_local_rank.index(machine),
        cross_size=len(with_local_rank),
    )


@contextlib.contextmanager
def _listening(address: str) -> Iterator[RendezvousHTTPServer]:
    """A server that listens, but does not serve requests yet."""
    # Horovod's RendezvousServer would listen on all interfaces; this one listens on one.
    server = RendezvousHTTPServer((address, 0), RendezvousHandler, 0)
    try:
        yield server
    finally:
        server.server_close()


@contextlib.contextmanager
def _serving(server: RendezvousHTTPServer, machines: Sequence[str]) -> Iterator[None]:
    server.init([slot_info(rank, machines) for rank in range(len(machines))])
    threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()


def _address_of(server: RendezvousHTTPServer) -> str:
    address, port = server.server_address
    return f"{address}:{port}"
