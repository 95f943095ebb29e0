"""Hosts on one machine: name spaces with their own interfaces, names, /etc/hosts and processes, wired by a bridge.

Nothing is made outside the name spaces, and nothing listens there. Each is held by a process that ends with this one, however
this one ends, and the kernel then removes all processes and interfaces in it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_UNSHARE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
# As the first process of a host it must collect those that lose their parents. Its input ends when this process does.
_HOLD = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"
_NETWORK = "10.77.0"
# Every host has this one, as with docker0, and another one for itself. Nobody else is on either.
_COMMON_DECOY = "172.17.0.1"
_CGROUPS = Path("/sys/fs/cgroup")


class HostError(RuntimeError):
    """A host or a process on it is not what it should be."""


def why_not() -> str:
    """Why hosts cannot be made here; empty where they can."""
    try:
        command = [*_UNSHARE, "ip", "link", "add", "name", "probe0", "type", "veth", "peer", "name", "probe1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return "" if done.returncode == 0 else f"name spaces are not permitted: {done.stderr.strip()}"


@dataclass
class Host:
    """One machine of the cluster."""

    name: str
    """Its host name, to begin with."""
    interface: str
    """That leads to the others."""
    address: str
    """By which the others reach it."""
    own_name_is: str
    """The address to which its name leads on this host alone."""
    pid: int
    """Of the process that holds the name spaces."""
    cgroup: Path | None = None

    def command(self, *words: str) -> list[str]:
        """What to run on the machine so that the words run on the host."""
        into = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid"]
        limited = ["sh", "-c", f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"', "sh"] if self.cgroup else []
        return [*limited, *into, *words]

    def run(self, *words: str) -> str:
        """Run a command to its end and give its output."""
        return _run(self.command(*words))

    def crash(self) -> None:
        """End all its processes at once, as a reset would."""
        # Within its name space, -1 means all but the one that holds it, which cannot be killed from there.
        self.run("sh", "-c", "kill -9 -1")


class Network:
    """A bridge and the hosts on it. Use it in a `with` statement.

    Args:
        folder: for each host's files.
    """

    def __init__(self, folder: Path) -> None:
        self.hosts: list[Host] = []
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Network":
        # Last of all, when nothing runs in them any more.
        self._stack.callback(_remove_cgroups)
        try:
            self._hub_pid = self._hold()
            self._hub("ip", "link", "add", "name", "br0", "type", "bridge")
            self._hub("ip", "link", "set", "br0", "up")
            return self
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, name: str, interface: str, number: int, kind: str, quota: float = 0) -> Host:
        """A new host.

        Args:
            name: its own.
            interface: that of its cable.
            number: the last one of its address.
            kind: what its own name means to itself: `right`; `loopback`, as Debian has it; `decoy`, a network that nobody else
                is on.
            quota: cores of the machine that it may use; 0 for all.
        """
        address, decoy = f"{_NETWORK}.{number}", f"192.168.{number}.1"
        own_name_is = {"right": address, "loopback": "127.0.1.1", "decoy": decoy}[kind]
        host = Host(name, interface, address, own_name_is, self._hold())
        host.run("hostname", name)
        host.run("ip", "link", "set", "lo", "up")
        # Decoys come first in every listing.
        for order, (device, wrong) in enumerate((("adecoy", decoy), ("docker0", _COMMON_DECOY))):
            host.run("ip", "link", "add", "name", device, "type", "veth", "peer", "name", f"nowhere{order}")
            host.run("ip", "address", "add", f"{wrong}/24", "dev", device)
            host.run("ip", "link", "set", f"nowhere{order}", "up")
            host.run("ip", "link", "set", device, "up")
        port = _port(host)
        self._hub("ip", "link", "add", "name", port, "type", "veth", "peer", "name", interface, "netns", str(host.pid))
        self._hub("ip", "link", "set", port, "master", "br0", "up")
        host.run("ip", "address", "add", f"{address}/24", "dev", interface)
        host.run("ip", "link", "set", interface, "up")
        host.cgroup = _cgroup(host, quota) if quota else None
        self.hosts.append(host)
        return host

    def name_all(self) -> None:
        """Tell the hosts of each other; each has its own idea of the names."""
        for host in self.hosts:
            lines = [f"{one.own_name_is if one is host else one.address} {one.name}" for one in self.hosts]
            table = self._folder / f"hosts-{host.name}"
            table.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            host.run("mount", "--bind", str(table), "/etc/hosts")

    def cut(self, host: Host) -> None:
        """Take a host off the network, as if its cable were pulled."""
        self._hub("ip", "link", "set", _port(host), "down")

    def limit(self, megabits: float) -> None:
        """Let each host send so much a second, with a token bucket; 0 for as much as it can."""
        for host in self.hosts:
            if megabits:
                shape = ["rate", f"{megabits}mbit", "burst", "128kb", "latency", "100ms"]
                host.run("tc", "qdisc", "replace", "dev", host.interface, "root", "tbf", *shape)
            else:
                subprocess.run(
                    host.command("tc", "qdisc", "del", "dev", host.interface, "root"), check=False, capture_output=True
                )

    @contextlib.contextmanager
    def delay(self, seconds: float) -> Iterator[None]:
        """While the block runs, every frame that a host sends arrives so much later."""
        names = [_port(host) for host in self.hosts]
        log = self._stack.enter_context((self._folder / "delay.log").open("ab"))
        command = [sys.executable, "-m", "benchmarks.cluster.latency", str(seconds), *names]
        process = subprocess.Popen(
            ["nsenter", "--target", str(self._hub_pid), "--net", *command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            self._offload(0)
            _wait_for_line(process, "the delay line", self._folder / "delay.log")
            yield
        finally:
            process.stdin.close()
            process.wait(10)
            self._offload(1)

    def _offload(self, on: int) -> None:
        for host in self.hosts:
            host.run("env", "-C", str(ROOT), sys.executable, "-m", "benchmarks.cluster.offload", host.interface, str(on))

    def _hold(self) -> int:
        """Make the name spaces of a host. Gives the process, as this one sees it, that is the first in them."""
        process = subprocess.Popen(
            [*_UNSHARE, sys.executable, "-I", "-S", "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._stack.callback(end, process)
        _wait_for_line(process, "a host")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(child)

    def _hub(self, *words: str) -> str:
        return _run(["nsenter", "--target", str(self._hub_pid), "--net", *words])


def _cgroup(host: Host, quota: float) -> Path:
    """A control group that holds back the processor: version 2, or 1 where that is mounted."""
    period = 20_000
    first = _CGROUPS / "cpu"
    group = (first if first.is_dir() else _CGROUPS) / f"convoy-{os.getpid()}-{host.name}"
    group.mkdir()
    if first.is_dir():
        (group / "cpu.cfs_period_us").write_text(str(period))
        (group / "cpu.cfs_quota_us").write_text(str(int(period * quota)))
    else:
        (group / "cpu.max").write_text(f"{int(period * quota)} {period}")
    return group


def _port(host: Host) -> str:
    """The bridge's end of a host's cable."""
    return f"to-{host.name}"


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise HostError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _wait_for_line(process: "subprocess.Popen[bytes]", what: str, log: Path | None = None) -> None:
    if not process.stdout.readline():
        told = log.read_text(errors="replace")[-1000:] if log else ""
        raise HostError(f"{what} could not be started: exit code {process.wait(10)} {told}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process, collect it, and close its pipes."""
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _remove_cgroups() -> None:
    """Those of this process, and of others that are gone; the kernel removes no control group by itself."""
    for group in (*_CGROUPS.glob("convoy-*-*"), *_CGROUPS.glob("cpu/convoy-*-*")):
        owner = group.name.split("-")[1]
        if owner != str(os.getpid()) and Path(f"/proc/{owner}").exists():
            continue
        # Processes in it were killed a moment ago.
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)
