"""Have a rank's host name lead to the address by which the other ranks reach it.

Horovod is told the network interface (HOROVOD_GLOO_IFACE) and uses it to find the others, but 0.28.1 forgets it when it sets up
the connections that reduce: `GlooContext::InitializeForProcessSet` takes it from a context in which it was never set. Without
one, Gloo listens at the first address that the host's own name leads to. Where that is 127.0.1.1, or a network that the others
are not on, they are refused, or wait.

So a rank gets a name space of its own for the host name, and in it a name that is an address. That takes root, or a kernel that
grants user name spaces, as most do outside containers.
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
    """Make this process's host name lead to an address. Must be called before the process has other threads.

    Returns:
        False where neither it does nor this process may change it.
    """
    return _gloo_address() == address or _set_hostname(address)


def check(named: bool, address: str) -> None:
    """Refuse what would hang, given what `resolve_hostname_to` has returned. On one machine any address will do.

    Raises:
        LaunchError: it names the file to mend.
    """
    if not named and address != LOOPBACK:
        name = socket.gethostname()
        raise LaunchError(
            f"on {name} its own name leads to {_gloo_address() or 'no address'}, at which Horovod would have the other workers "
            f"call, and they reach it at {address}: write `{address} {name}` into its /etc/hosts, instead of the line there is"
        )


def _gloo_address() -> str:
    """The first address of the own name that can be bound to; empty where there is none."""
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
            # Who it was, it stays. The kernel wants the second before the third.
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        socket.sethostname(name)
    except OSError:
        return False
    return True
