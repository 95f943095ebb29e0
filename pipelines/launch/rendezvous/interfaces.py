"""Discovers which hosts the ranks are on, and on which network interfaces these reach each other.

A host can have several networks, and its own name can resolve to an address that no other host can reach (Debian writes 127.0.1.1
into /etc/hosts). Spark does not notice such an address, because executors connect to the driver and not the other way round. So
the addresses are tried: the hosts form a ring, and each connects to all addresses of the next one.
"""

import contextlib
import dataclasses
import json
import secrets
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from pipelines.errors import LaunchError

LOOPBACK = "127.0.0.1"
# Timeout of a connection. Within a data center a reply takes a millisecond; a lost packet is sent again after one second.
_CONNECT_SECONDS = 3.0

Gather = Callable[[str], Sequence[str]]
"""An allgather of strings: takes one from each rank, returns those of all ranks, in rank order."""


@dataclass(frozen=True)
class HostDiscovery:
    """Result of the discovery on one rank."""

    machines: tuple[str, ...]
    """For each rank, a name of its host that no other host has."""
    address: str
    """Address at which the others reach this rank's host; loopback if there is only one host."""
    interface: str
    """The network interface with that address."""


def discover_hosts(rank: int, host: str, spark_address: str, gather: Gather) -> HostDiscovery:
    """Discover the hosts of all ranks. All ranks must call it at the same time.

    Args:
        rank: this rank.
        host: its host's name, for messages.
        spark_address: name or IPv4 address by which Spark knows the host; preferred if the others can reach it.
        gather: allgather over ranks; takes Spark up to a second.

    Raises:
        LaunchError: a host cannot be reached at any of its addresses by the one before it; raised on all ranks.
    """
    own = _addresses(spark_address)
    # In local mode Spark's address is loopback, and nothing may listen on other addresses.
    with _accepting_calls({} if spark_address == LOOPBACK else own) as endpoints:
        # Two hosts may have the same name, or share an address (docker0), but not the name and all addresses.
        reports = [_HostReport.from_json(text) for text in gather(_HostReport(host, sorted(own), endpoints).to_json())]
        machines = list(dict.fromkeys(report.machine for report in reports))
        if len(machines) == 1:
            return HostDiscovery((LOOPBACK,) * len(reports), LOOPBACK, interface_of(LOOPBACK))
        leaders = [next(report for report in reports if report.machine == machine) for machine in machines]
        mine = machines.index(reports[rank].machine)
        leads = reports[rank] is leaders[mine]
        reached = gather(_first_reachable(leaders[(mine + 1) % len(leaders)].endpoints) if leads else "")
    # The host before it in the ring has determined a host's address.
    addresses = [reached[reports.index(leaders[number - 1])] for number in range(len(machines))]
    for number, address in enumerate(addresses):
        if not address:
            raise LaunchError(_unreachable(leaders[number - 1], leaders[number]))
    names = tuple(addresses[machines.index(report.machine)] for report in reports)
    return HostDiscovery(names, addresses[mine], own[addresses[mine]])


@dataclass(frozen=True)
class _Endpoint:
    """An address on which a host listens, and the token that it replies with."""

    address: str
    port: int
    token: str


@dataclass(frozen=True)
class _HostReport:
    """What a rank tells the others about its host."""

    host: str
    addresses: list[str]
    endpoints: list[_Endpoint]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "_HostReport":
        raw = json.loads(text)
        return cls(raw["host"], raw["addresses"], [_Endpoint(**endpoint) for endpoint in raw["endpoints"]])

    @property
    def machine(self) -> tuple[str, ...]:
        return (self.host, *self.addresses)


def _unreachable(caller: _HostReport, called: _HostReport) -> str:
    tried = ", ".join(endpoint.address for endpoint in called.endpoints) or "it has none"
    return (
        f"{caller.host} cannot reach {called.host} at any of its addresses ({tried}): ranks communicate on ports that the system "
        "chooses; open the network between the nodes"
    )


def interface_of(address: str) -> str:
    """Name of this host's network interface that has an address.

    Raises:
        LaunchError: no interface has the address.
    """
    for name, interface_addresses in psutil.net_if_addrs().items():
        if any(candidate.address == address for candidate in interface_addresses):
            return str(name)
    raise LaunchError(f"no network interface of {socket.gethostname()} has the address {address}")


def _addresses(spark_address: str) -> dict[str, str]:
    """IPv4 addresses of this host with their interfaces, without loopback; the one that Spark uses comes first."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    own = {
        candidate.address: str(name)
        for name, interface_addresses in psutil.net_if_addrs().items()
        for candidate in interface_addresses
        if name in up and candidate.family == socket.AF_INET and not candidate.address.startswith("127.")
    }
    with contextlib.suppress(OSError):
        spark_address = socket.gethostbyname(spark_address)
    return dict(sorted(own.items(), key=lambda item: item[0] != spark_address))


@contextlib.contextmanager
def _accepting_calls(addresses: dict[str, str]) -> Iterator[list[_Endpoint]]:
    """Accept connections on these addresses while the block runs, and reply with a token. Yields the endpoints."""
    token = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        endpoints = []
        for address in addresses:
            listener = stack.enter_context(socket.create_server((address, 0)))
            selector.register(listener, selectors.EVENT_READ)
            endpoints.append(_Endpoint(address, listener.getsockname()[1], token))
        close, closed = socket.socketpair()
        stack.enter_context(close)
        selector.register(stack.enter_context(closed), selectors.EVENT_READ)
        thread = threading.Thread(target=_serve_token, args=(selector, closed, token.encode()), name="endpoints", daemon=True)
        thread.start()
        try:
            yield endpoints
        finally:
            close.send(b".")
            thread.join()


def _serve_token(selector: selectors.BaseSelector, closed: socket.socket, token: bytes) -> None:
    while True:
        for key, _ in selector.select():
            if key.fileobj is closed:
                return
            with contextlib.suppress(OSError):
                connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                with connection:
                    connection.sendall(token)


def _first_reachable(endpoints: Sequence[_Endpoint]) -> str:
    """The first of these addresses at which the host itself replies, rather than another with this address; empty for none."""
    pool = ThreadPoolExecutor(max(1, len(endpoints)), thread_name_prefix="connect")
    try:
        attempts = [pool.submit(_is_reachable, endpoint.address, endpoint.port, endpoint.token) for endpoint in endpoints]
        return next((endpoint.address for endpoint, attempt in zip(endpoints, attempts, strict=True) if attempt.result()), "")
    finally:
        pool.shutdown(wait=False)


def _is_reachable(address: str, port: int, token: str) -> bool:
    try:
        with (
            socket.create_connection((address, port), timeout=_CONNECT_SECONDS) as connection,
            connection.makefile("rb") as reply,
        ):
            return reply.read(len(token)) == token.encode()
    except OSError:
        return False
