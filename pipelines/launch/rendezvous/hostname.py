"""Makes a rank's host name resolve to the address at which the other ranks reach it.

Horovod uses the configured network interface (HOROVOD_GLOO_IFACE) for the rendezvous, but 0.28.1 drops it for the connections of
collective operations: `GlooContext::InitializeForProcessSet` reads it from a context in which it was never set. Without an
interface, Gloo listens on the first address that the host's own name resolves to. If that is 127.0.1.1, or in a network that the
other hosts are not part of, their connections are refused or time out.

So a rank gets its own UTS namespace, with an address as its host name. That needs root, or a kernel that allows unprivileged user
namespaces, as most do outside containers.
"""

import contextlib
import ctypes
import os
import socket
import sys
from pathlib import Path

from pipelines.errors import LaunchError
from pipelines.launch.rendezvous.interfaces import LOOPBACK

# linux/sched.h
_CLONE_NEWUTS, _CLONE_NEWUSER = 0x04000000, 0x10000000


def resolve_hostname_to(address: str) -> bool:
    """Make this process's host name resolve to an address. Must be called before the process starts threads.

    Returns:
        False if it does not resolve to the address, and this process may not change its host name.
    """
    return _gloo_address() == address or _set_hostname(address)


def check(resolves: bool, address: str) -> None:
    """Fail instead of hanging later, if `resolve_hostname_to` has returned False. On a single machine, any address works.

    Raises:
        LaunchError: names the line of /etc/hosts to change.
    """
    if not resolves and address != LOOPBACK:
        name = socket.gethostname()
        raise LaunchError(
            f"{name} resolves its own name to {_gloo_address() or 'no address'}, where Horovod would have the other workers "
            f"connect, but they reach it at {address}: write `{address} {name}` into its /etc/hosts, in place of the present line"
        )


def _gloo_address() -> str:
    """The first address of this host's name that can be bound; empty for none."""
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, protocol, _, address in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return str(address[0])
    return ""


def _set_hostname(name: str) -> bool:
    if sys.platform != "linux":
        return False
    libc, user, group = ctypes.CDLL(None), os.getuid(), os.getgid()
    try:
        if libc.unshare(_CLONE_NEWUTS) != 0:
            if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWUTS) != 0:
                return False
            # Keep uid and gid. The kernel requires setgroups to be denied before gid_map is written.
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        socket.sethostname(name)
    except OSError:
        return False
    return True
