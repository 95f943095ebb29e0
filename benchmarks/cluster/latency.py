"""Add latency to a bridge, and loss: every frame that enters at one of its ports is forwarded after a delay, or not at all.

python -m benchmarks.cluster.latency SECONDS LOST PORT...     in the namespace of the bridge `br0`, until its standard input ends

LOST is the share of the frames that are lost, from 0 to 1.

Linux has a queueing discipline for this (netem), but not every kernel was built with it. Here a port is removed from the bridge
and replaced with a veth pair; this process forwards the frames between port and pair. It needs complete frames, so hosts must not
offload checksums to the network card (`benchmarks.cluster.offload`).
"""

import collections
import contextlib
import random
import select
import socket
import subprocess
import sys
import time

_ALL_PROTOCOLS = 3
_LARGEST_FRAME = 65_536
_PACKET_IGNORE_OUTGOING = 23
_SOL_PACKET = 263


def main(seconds: float, lost: float, ports: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        carried = {}
        for number, port in enumerate(ports):
            inner, outer = f"inner{number}", f"outer{number}"
            ip("link", "add", "name", inner, "type", "veth", "peer", "name", outer)
            stack.callback(ip, "link", "del", inner)
            ip("link", "set", port, "nomaster")
            stack.callback(ip, "link", "set", port, "master", "br0")
            ip("link", "set", inner, "master", "br0", "up")
            ip("link", "set", outer, "up")
            at_port, at_bridge = stack.enter_context(_packet_socket(port)), stack.enter_context(_packet_socket(outer))
            # A frame is delayed, or lost, once on its way: when it leaves its host.
            carried[at_port] = (at_bridge, seconds, lost)
            carried[at_bridge] = (at_port, 0.0, 0.0)
        print("up", flush=True)
        _carry(carried)


def _carry(carried: "dict[socket.socket, tuple[socket.socket, float, float]]") -> None:
    chance = random.Random(1)
    waiting: collections.deque[tuple[float, bytes, socket.socket]] = collections.deque()
    while True:
        # All delays are equal, so frames are due in the order of arrival.
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([sys.stdin, *carried], [], [], timeout)
        if sys.stdin in ready:
            return
        for source in ready:
            target, delay, lost = carried[source]
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):
                    frame = source.recv(_LARGEST_FRAME)
                    if lost and chance.random() < lost:
                        continue
                    if delay:
                        waiting.append((time.monotonic() + delay, frame, target))
                    else:
                        _send(target, frame)
        while waiting and waiting[0][0] <= time.monotonic():
            _, frame, target = waiting.popleft()
            _send(target, frame)


def _send(target: socket.socket, frame: bytes) -> None:
    # A full queue or an unplugged cable drops frames, as in a real network.
    with contextlib.suppress(OSError):
        target.send(frame)


def _packet_socket(interface: str) -> socket.socket:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    packets.bind((interface, 0))
    packets.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    packets.setblocking(False)
    return packets


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
