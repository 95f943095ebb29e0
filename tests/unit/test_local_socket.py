import os
import socket
import subprocess
import sys

import pytest

from pipelines.system import local_socket

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's"),
]
# The credentials of a listening socket are those of the moment when it began to listen.
LISTEN = """
import os, socket, sys
from pipelines.system import local_socket
listener = socket.socket(socket.AF_UNIX)
listener.bind(local_socket.address(sys.argv[1]))
if sys.argv[2] == "another user":
    os.setuid(65534)
listener.listen()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("listener", ["this user", "another user"])
def test_a_connection_is_made_only_to_a_listener_of_the_same_user(listener):
    if listener == "another user" and os.getuid() != 0:
        pytest.skip("only root can change the user")
    name = local_socket.new_name()
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, name, listener], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as connection:
            if listener == "this user":
                local_socket.connect(connection, name)
            else:
                with pytest.raises(ConnectionError, match=f"^the socket {name} belongs to another user$"):
                    local_socket.connect(connection, name)
        process.communicate()


def test_a_name_at_which_nobody_listens_is_refused():
    with socket.socket(socket.AF_UNIX) as connection, pytest.raises(OSError, match="refused"):
        local_socket.connect(connection, local_socket.new_name())
