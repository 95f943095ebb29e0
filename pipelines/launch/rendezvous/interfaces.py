"""Which machines the ranks are on, and the network by which these reach each other.

A machine can have several networks, and its own name can lead to one that nobody else is on (Debian writes 127.0.1.1 into
/etc/hosts). Spark does not notice that it took such an address: executors call the driver, and are not called. So it is tried
out: the machines stand in a ring, and each calls the next one at all of its addresses.
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
# For one call. Within a data centre an answer takes a millisecond; a packet that is dropped is sent again after one second.
_CALL_SECONDS = 3.0

Gather = Callable[[str], Sequence[str]]
"""Takes a text from every rank, and gives the texts of all ranks in their order to every rank."""


@dataclass(frozen=True)
class HostDiscovery:
    """What a rank knows of the others once they have met."""

    machines: tuple[str, ...]
    """For every rank a name of its machine, which no other machine has."""
    address: str
    """Of this rank's machine, as the others reach it; loopback where there are no others."""
    interface: str
    """The network interface with that address."""


def discover_hosts(rank: int, host: str, spark_address: str, gather: Gather) -> HostDiscovery:
    """Called by all ranks at once.

    Args:
        rank: this rank.
        host: the name of its machine, for people.
        spark_address: by which Spark knows the machine, a name or an IPv4 address; used where it can be reached.
        gather: passes texts around; Spark takes up to a second for that.

    Raises:
        LaunchError: a machine cannot be reached by the one before it, at any of its addresses; raised on all ranks.
    """
    own = _addresses(spark_address)
    # In local mode, Spark's address is loopback, and nothing may listen elsewhere.
    with _accepting_calls({} if spark_address == LOOPBACK else own) as endpoints:
        # Two machines may have the same name, or an address in common (docker0), but not all of them.
        everyone = [_HostReport.from_json(text) for text in gather(_HostReport(host, sorted(own), endpoints).to_json())]
        machines = list(dict.fromkeys(place.machine for place in everyone))
        if len(machines) == 1:
            return HostDiscovery((LOOPBACK,) * len(everyone), LOOPBACK, interface_of(LOOPBACK))
        leaders = [next(place for place in everyone if place.machine == machine) for machine in machines]
        mine = machines.index(everyone[rank].machine)
        leads = everyone[rank] is leaders[mine]
        reached = gather(_first_reachable(leaders[(mine + 1) % len(leaders)].endpoints) if leads else "")
    # The address of a machine is what the one before it has found out.
    found = [reached[everyone.index(leaders[number - 1])] for number in range(len(machines))]
    for number, address in enumerate(found):
        if not address:
            raise LaunchError(_unreachable(leaders[number - 1], leaders[number]))
    names = tuple(found[machines.index(place.machine)] for place in everyone)
    return HostDiscovery(names, found[mine], own[found[mine]])


@dataclass(frozen=True)
class _Endpoint:
    """Where a machine listens, and the token that it answers with."""

    address: str
    port: int
    token: str


@dataclass(frozen=True)
class _HostReport:
    """What a rank tells the others about its machine."""

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
        f"{caller.host} cannot reach {called.host} at any of its addresses ({tried}): ranks talk to each other on ports that the "
        "system chooses; open the network between the nodes"
    )


def interface_of(address: str) -> str:
    """The network interface of this machine that has an address.

    Raises:
        LaunchError: none has it.
    """
    for name, found in psutil.net_if_addrs().items():
        if any(one.address == address for one in found):
            return str(name)
    raise LaunchError(f"no network interface of {socket.gethostname()} has the address {address}")


def _addresses(spark_address: str) -> dict[str, str]:
    """IPv4 addresses of this machine and their interfaces, without loopback, the one that Spark uses first."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    own = {
        one.address: str(name)
        for name, found in psutil.net_if_addrs().items()
        for one in found
        if name in up and one.family == socket.AF_INET and not one.address.startswith("127.")
    }
    with contextlib.suppress(OSError):
        spark_address = socket.gethostbyname(spark_address)
    return dict(sorted(own.items(), key=lambda item: item[0] != spark_address))


@contextlib.contextmanager
def _accepting_calls(addresses: dict[str, str]) -> Iterator[list[_Endpoint]]:
    """Answer calls at these addresses while the block runs. Gives their ports and the answer to expect."""
    token = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(selectors.DefaultSelector())
        endpoints = []
        for address in addresses:
            listener = stack.enter_context(socket.create_server((address, 0)))
            waiting.register(listener, selectors.EVENT_READ)
            endpoints.append(_Endpoint(address, listener.getsockname()[1], token))
        end, ended = socket.socketpair()
        stack.enter_context(end)
        waiting.register(stack.enter_context(ended), selectors.EVENT_READ)
        thread = threading.Thread(target=_serve_token, args=(waiting, ended, token.encode()), name="doors", daemon=True)
        thread.start()
        try:
            yield endpoints
        finally:
            end.send(b".")
            thread.join()


def _serve_token(waiting: selectors.BaseSelector, ended: socket.socket, token: bytes) -> None:
    while True:
        for key, _ in waiting.select():
            if key.fileobj is ended:
                return
            with contextlib.suppress(OSError):
                caller, _ = key.fileobj.accept()  # type: ignore[union-attr]
                with caller:
                    caller.sendall(token)


def _first_reachable(endpoints: Sequence[_Endpoint]) -> str:
    """The first of these addresses at which the other machine answers, and not some other one; empty where none does."""
    pool = ThreadPoolExecutor(max(1, len(endpoints)), thread_name_prefix="call")
    try:
        calls = [pool.submit(_is_reachable, endpoint.address, endpoint.port, endpoint.token) for endpoint in endpoints]
        return next((endpoint.address for endpoint, call in zip(endpoints, calls, strict=True) if call.result()), "")
    finally:
        pool.shutdown(wait=False)


def _is_reachable(address: str, port: int, token: str) -> bool:
    try:
        with socket.create_connection((address, port), timeout=_CALL_SECONDS) as connection, connection.makefile("rb") as reply:
            return reply.read(len(token)) == token.encode()
    except OSError:
        return False
