"""Horovod's view of the ranks, and the server at which they find each other: rank 0 runs it, or the driver of ranks beside it."""

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
    """What a rank must know to join the others."""

    slot: SlotInfo
    server: str
    """ADDRESS:PORT of the rendezvous."""
    interface: str
    """The network interface on which the ranks reach each other."""


@contextlib.contextmanager
def distributed_rendezvous(rank: int, host: str, spark_address: str, gather: Gather) -> Iterator[RankPlacement]:
    """Have all ranks meet, and their rendezvous served while the block runs.

    Args:
        rank, host, spark_address, gather: as `pipelines.launch.rendezvous.interfaces.discover_hosts` takes them.

    Raises:
        LaunchError: on all ranks, when machines cannot reach each other.
    """
    met = interfaces.discover_hosts(rank, host, spark_address, gather)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(met.address)) if rank == 0 else None
        place = gather(_address_of(server) if server else "")[0]
        if server is not None:
            stack.enter_context(_serving(server, met.machines))
        yield RankPlacement(slot_info(rank, met.machines), place, met.interface)


@contextlib.contextmanager
def local_rendezvous(ranks: int) -> Iterator[list[RankPlacement]]:
    """The places of ranks that are all here, in rank order, while the block runs."""
    machines, interface = (LOOPBACK,) * ranks, interfaces.interface_of(LOOPBACK)
    with _listening(LOOPBACK) as server, _serving(server, machines):
        yield [RankPlacement(slot_info(rank, machines), _address_of(server), interface) for rank in range(ranks)]


def slot_info(rank: int, machines: Sequence[str]) -> SlotInfo:
    """Horovod's view of a rank, given the machine of every rank.

    The local rank counts the ranks before it on its machine; the cross rank counts the machines before it with this local rank.
    Horovod knows a machine by what it calls the host name, so that must not be the name of two of them.
    """
    own = machines[rank]
    local_rank = machines[:rank].count(own)
    with_local_rank = [other for other in dict.fromkeys(machines) if machines.count(other) > local_rank]
    return SlotInfo(
        hostname=own,
        rank=rank,
        size=len(machines),
        local_rank=local_rank,
        local_size=machines.count(own),
        cross_rank=with_local_rank.index(own),
        cross_size=len(with_local_rank),
    )


@contextlib.contextmanager
def _listening(address: str) -> Iterator[RendezvousHTTPServer]:
    """A server that takes calls and does not answer them yet."""
    # Horovod's own RendezvousServer would listen on every interface; this one listens on one.
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
