import os
import socket
import subprocess
import sys

import pytest

from pipelines.errors import LaunchError
from pipelines.launch.rendezvous import hostname

RENAME = """
import ctypes, os, socket, sys
from pipelines.launch.rendezvous import hostname
if sys.argv[1] == "nobody":
    # Import now, because Python's own files may not be readable for nobody.
    socket.getaddrinfo("localhost", None)
    os.setgid(65534)
    os.setuid(65534)
    # Make it dumpable again, so that it may write to its own /proc/self.
    ctypes.CDLL(None).prctl(4, 1)
print(hostname.resolve_hostname_to("127.0.0.77"), socket.gethostbyname(socket.gethostname()), os.getuid(), os.getgid())
"""


@pytest.mark.parametrize("user", ["this user", "nobody"])
def test_a_process_resolves_its_name_to_an_address_and_the_machine_keeps_its_name(user):
    if user == "nobody" and os.getuid() != 0:
        pytest.skip("only root can change the user")
    before = socket.gethostname()
    done = subprocess.run([sys.executable, "-c", RENAME, user], capture_output=True, text=True, timeout=60, check=True)
    resolves, address, *ids = done.stdout.split()
    # Some systems allow it to root only.
    if resolves == "True" or (os.getuid() == 0 and user == "this user"):
        assert (resolves, address) == ("True", "127.0.0.77")
    assert ids == (["65534"] * 2 if user == "nobody" else [str(os.getuid()), str(os.getgid())])
    assert socket.gethostname() == before


def test_a_name_that_resolves_elsewhere_and_cannot_be_changed_is_rejected_if_there_are_other_machines(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "beta")
    monkeypatch.setattr(hostname, "_gloo_address", lambda: "127.0.1.1")
    with pytest.raises(LaunchError, match=r"^beta resolves its own name to 127\.0\.1\.1, .* write `10\.0\.0\.2 beta` into its"):
        hostname.check(False, "10.0.0.2")
    hostname.check(False, "127.0.0.1")
    hostname.check(True, "10.0.0.2")


def test_gloo_would_bind_the_first_address_that_belongs_to_this_machine(monkeypatch):
    def resolved(*_, type):
        return [(socket.AF_INET, type, 0, "", (address, 0)) for address in ("192.0.2.1", "127.0.0.9", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert hostname._gloo_address() == "127.0.0.9"
