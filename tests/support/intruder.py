"""What another user of the machine can do to a running training: python intruder.py FOLDER PORT... Prints it as JSON."""

import contextlib
import json
import os
import socket
import sys
from pathlib import Path

_SECONDS = 2.0


def main(folder: Path, ports: list[int]) -> None:
    # Nobody's. All modules are imported, because Python's own files may not be readable for nobody.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    json.dump({"files": files(folder), "unix": unix_sockets(), "tcp": tcp(ports)}, sys.stdout)


def files(folder: Path) -> dict[str, list[str]]:
    """Paths below a folder that can be read, changed, or, for folders, be given another file."""
    found: dict[str, list[str]] = {"readable": [], "writable": [], "open": []}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        with contextlib.suppress(OSError):
            if path.is_dir():
                if os.access(path, os.W_OK):
                    found["open"].append(name)
            elif path.is_file():
                for kind, mode in (("readable", os.R_OK), ("writable", os.W_OK)):
                    if os.access(path, mode):
                        found[kind].append(name)
    return found


def unix_sockets() -> dict[str, str]:
    """What happens at sockets without a file, by name: they hang up, or answer, or wait."""
    found = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        name = line.split()[-1]
        if not name.startswith("@convoy"):
            continue
        with socket.socket(socket.AF_UNIX) as connection:
            found[name] = answer(connection, "\0" + name[1:], b"\0" * 64)
    return found


def tcp(ports: list[int]) -> dict[int, list[str]]:
    """What happens at ports of loopback that are sent zeros, a request of HTTP, and a call of Python's gateway to Java."""
    texts = (b"\0" * 64, b"GET / HTTP/1.0\r\n\r\n", b"c\nj\nexit\ni0\ne\n")
    found = {}
    for port in ports:
        found[port] = []
        for text in texts:
            with socket.socket() as connection:
                found[port].append(answer(connection, ("127.0.0.1", port), text))
    return found


def answer(connection: socket.socket, address: str | tuple[str, int], text: bytes) -> str:
    """What a server does with a text."""
    connection.settimeout(_SECONDS)
    try:
        connection.connect(address)
        connection.sendall(text)
        return connection.recv(200).decode("ascii", "replace") or "hung up"
    except TimeoutError:
        return "waits"
    except OSError:
        return "hung up"


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(port) for port in sys.argv[2:]])
