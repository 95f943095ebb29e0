"""What this process has used of processors and links since it started. Linux; elsewhere what is not known stays 0."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_THREADS = Path("/proc/self/task")
_FILES = Path("/proc/self/fd")
_MOUNT = Path("/sys/fs/cgroup")
_CONTROL_GROUPS = Path("/proc/self/cgroup")
# Offsets in `struct tcp_info` (Linux 4.10 and later): total_retrans, bytes_acked, data_segs_out and busy_time.
_RETRANSMITTED = struct.Struct("@I"), 100
_ACKNOWLEDGED = struct.Struct("@Q"), 120
_SEGMENTS = struct.Struct("@I"), 156
_BUSY_MICROSECONDS = struct.Struct("@Q"), 168
_TCP_INFO_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Link:
    """Sums over the TCP connections to another machine."""

    busy_seconds: float = 0.0
    """Data that was sent was not yet acknowledged; the longest of the connections."""
    sent: int = 0
    """Bytes that were acknowledged."""
    segments: int = 0
    """Segments with data, sent or sent again."""
    retransmitted: int = 0
    """Segments sent again."""


@dataclass(frozen=True, kw_only=True)
class ProcessUsage:
    """Sums since the process started."""

    processor_seconds: float = 0.0
    """All threads together, as is the next."""
    queued_seconds: float = 0.0
    """A thread was ready to run and had no processor."""
    throttled_seconds: float = 0.0
    """The limit of processors of its control group, which other processes may share, held that."""
    links: Mapping[str, Link] = field(default_factory=dict)
    """By address of the other machine."""
    address: str = ""
    """At which the others know this machine; empty without links."""


@dataclass(frozen=True)
class _Connection:
    """A TCP connection between two machines."""

    own: str
    other: str
    link: Link


class UsageMeter:
    """Measures this process, from one thread. The kernel drops what a thread waited when that ends, so it is added up here."""

    def __init__(self) -> None:
        self._queued: dict[str, int] = {}
        self._queued_in_all = 0

    def usage(self) -> ProcessUsage:
        """What this process has used so far. Takes about a millisecond."""
        self._count_queued()
        connections = list(_connections())
        return ProcessUsage(
            processor_seconds=time.process_time(),
            queued_seconds=self._queued_in_all / 1e9,
            throttled_seconds=_throttled(),
            links=_links_by_address(connections),
            address=next((connection.own for connection in connections), ""),
        )

    def _count_queued(self) -> None:
        queued = {}
        # A thread may end while it is read.
        with contextlib.suppress(OSError):
            for thread in os.listdir(_THREADS):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    queued[thread] = int((_THREADS / thread / "schedstat").read_text(encoding="ascii").split()[1])
        # Another thread may have the number of one that has ended.
        self._queued_in_all += sum(max(since - self._queued.get(thread, 0), 0) for thread, since in queued.items())
        self._queued = queued


def _throttled() -> float:
    """Seconds for which the control group of this process was throttled, of version 1 or 2; the mean over processors."""
    with contextlib.suppress(OSError):
        for line in _CONTROL_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            for folder in (_MOUNT / controllers / name.lstrip("/"), _MOUNT / "cpu" / name.lstrip("/"), _MOUNT / controllers):
                # A group without a limit may have neither of them.
                with contextlib.suppress(OSError, ValueError, KeyError):
                    found = dict(line.split() for line in (folder / "cpu.stat").read_text(encoding="ascii").splitlines())
                    newer = "throttled_usec" in found
                    seconds = int(found["throttled_usec"]) / 1e6 if newer else int(found["throttled_time"]) / 1e9
                    return seconds / len(os.sched_getaffinity(0))
    return 0.0


def _links_by_address(connections: Sequence[_Connection]) -> dict[str, Link]:
    found: dict[str, list[Link]] = {}
    for connection in connections:
        found.setdefault(connection.other, []).append(connection.link)
    return {
        address: Link(
            busy_seconds=max(link.busy_seconds for link in links),
            sent=sum(link.sent for link in links),
            segments=sum(link.segments for link in links),
            retransmitted=sum(link.retransmitted for link in links),
        )
        for address, links in found.items()
    }


def _connections() -> Iterator[_Connection]:
    with contextlib.suppress(OSError):
        for name in os.listdir(_FILES):
            # A descriptor may be closed while it is read.
            with contextlib.suppress(OSError, ValueError, struct.error):
                if os.readlink(_FILES / name).startswith("socket:"):
                    connection = _connection(int(name))
                    if connection is not None:
                        yield connection


def _connection(descriptor: int) -> _Connection | None:
    """A TCP connection to another machine; None if it is not that."""
    # A copy, which closes without ending the connection.
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return None
        own, other = connection.getsockname()[0], connection.getpeername()[0]
        if other in (own, "::1") or other.startswith("127."):
            return None
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    (retransmitted,), (sent,), (segments,), (busy,) = (
        form.unpack_from(info, offset) for form, offset in (_RETRANSMITTED, _ACKNOWLEDGED, _SEGMENTS, _BUSY_MICROSECONDS)
    )
    link = Link(busy_seconds=busy / 1e6, sent=sent, segments=segments, retransmitted=retransmitted)
    return _Connection(own, other, link)
