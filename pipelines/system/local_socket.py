"""Unix sockets with names that are no files (man 7 unix, abstract; Linux alone), so that nothing stays of a killed process.

Nothing guards such a name, so both sides of a connection ask whose the other is.
"""

import os
import secrets
import socket
import struct


def new_name() -> str:
    """One that nobody else has."""
    return f"convoy-{secrets.token_hex(8)}"


def address(name: str) -> bytes:
    """What `bind` and `connect` take."""
    return b"\0" + name.encode()


def is_ours(connection: socket.socket) -> bool:
    """The other side runs as the user of this process."""
    pid_uid_gid = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", pid_uid_gid)[1] == os.geteuid())
