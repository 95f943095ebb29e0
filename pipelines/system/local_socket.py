"""Unix sockets in the abstract namespace (man 7 unix; Linux only), so that a killed process leaves no socket file behind.

Anyone can use such a name, so both ends of a connection check the user of the other.
"""

import os
import secrets
import socket
import struct


def new_name() -> str:
    """A unique name."""
    return f"convoy-{secrets.token_hex(8)}"


def address(name: str) -> bytes:
    """Address for `bind` and `connect`."""
    return b"\0" + name.encode()


def connect(connection: socket.socket, name: str) -> None:
    """Connect a socket to a name, if the process that listens there belongs to the same user as this one.

    Raises:
        OSError: nobody listens.
        ConnectionError: another user does.
    """
    connection.connect(address(name))
    if not is_ours(connection):
        raise ConnectionError(f"the socket {name} belongs to another user")


def is_ours(connection: socket.socket) -> bool:
    """Whether the peer runs as the same user as this process."""
    pid_uid_gid = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", pid_uid_gid)[1] == os.geteuid())
