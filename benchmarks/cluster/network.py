"""Simulated hosts on one machine: namespaces with their own interfaces, names, /etc/hosts and processes, connected by a bridge.

Nothing is created or listens outside the namespaces. Each is held by a process that dies with this one, however this one ends,
and the kernel then removes all processes and interfaces in it.
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
# As a host's init process it must reap orphans. Its standard input ends when this process does.
_HOLD = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"
_NETWORK = "10.77.0"
# An address that every host has, as with docker0, beside a decoy of its own. Neither network has other hosts.
_COMMON_DECOY = "172.17.0.1"
_CGROUPS = Path("/sys/fs/cgroup")


class HostError(RuntimeError):
    """A host could not be set up, or a process on it failed."""


def why_not() -> str:
    """Why hosts cannot be created here; empty if they can."""
    try:
        command = [*_UNSHARE, "ip", "link", "add", "name", "probe0", "type", "veth", "peer", "name", "probe1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return "" if done.returncode == 0 else f"namespaces are not permitted: {done.stderr.strip()}"


@dataclass
class Host:
    """One machine of the cluster."""

    name: str
    """Its initial host name."""
    interface: str
    """The interface that connects it to the others."""
    address: str
    """The address at which the others reach it."""
    own_name_is: str
    """The address to which this host alone resolves its name."""
    pid: int
    """The process that holds the namespaces."""
    cgroup: Path | None = None

    def command(self, *words: str) -> list[str]:
        """The command that runs `words` on the host."""
        into = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid"]
        limited = ["sh", "-c", f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"', "sh"] if self.cgroup else []
        return [*limited, *into, *words]

    def run(self, *words: str) -> str:
        """Run a command to completion and return its output."""
        return _run(self.command(*words))

    def crash(self) -> None:
        """Kill all its processes at once, as a reset would."""
        # Inside the namespace, -1 means all processes except its init, which cannot be killed from there.
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
        # Runs last, when the groups are empty.
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
        """Add a host.

        Args:
            name: its host name.
            interface: name of the interface that connects it to the bridge.
            number: last number of its address.
            kind: how it resolves its own name: `right`; `loopback`, as on Debian; `decoy`, to a network without other hosts.
            quota: cores of the machine that it may use; 0 for all.
        """
        address, decoy = f"{_NETWORK}.{number}", f"192.168.{number}.1"
        own_name_is = {"right": address, "loopback": "127.0.1.1", "decoy": decoy}[kind]
        host = Host(name, interface, address, own_name_is, self._hold())
        host.run("hostname", name)
        host.run("ip", "link", "set", "lo", "up")
        # The decoys' names sort before the real interface.
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
        """Write each host's /etc/hosts, with its own view of the names."""
        for host in self.hosts:
            lines = [f"{one.own_name_is if one is host else one.address} {one.name}" for one in self.hosts]
            table = self._folder / f"hosts-{host.name}"
            table.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            host.run("mount", "--bind", str(table), "/etc/hosts")

    def cut(self, host: Host) -> None:
        """Disconnect a host, as if its network cable were unplugged."""
        self._hub("ip", "link", "set", _port(host), "down")

    def limit(self, megabits: float, only: Host | None = None) -> None:
        """Limit how many megabits per second each host sends, with a token bucket; 0 for no limit. `only`: one host."""
        for host in self.hosts if only is None else [only]:
            if megabits:
                shape = ["rate", f"{megabits}mbit", "burst", "128kb", "latency", "100ms"]
                host.run("tc", "qdisc", "replace", "dev", host.interface, "root", "tbf", *shape)
            else:
                subprocess.run(
                    host.command("tc", "qdisc", "del", "dev", host.interface, "root"), check=False, capture_output=True
                )

    @contextlib.contextmanager
    def delay(self, seconds: float, lost: float = 0, only: Host | None = None) -> Iterator[None]:
        """Delay every frame that a host sends while the block runs, and lose a share of them. `only`: one host."""
        names = [_port(host) for host in (self.hosts if only is None else [only])]
        log = self._stack.enter_context((self._folder / "delay.log").open("ab"))
        command = [sys.executable, "-m", "benchmarks.cluster.latency", str(seconds), str(lost), *names]
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
        """Create a host's namespaces. Returns the PID of their init process, as seen from this process."""
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
    """A control group that limits processor time: version 2, or 1 where that is mounted."""
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
    """The bridge's end of a host's veth pair."""
    return f"to-{host.name}"


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise HostError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _wait_for_line(process: "subprocess.Popen[bytes]", what: str, log: Path | None = None) -> None:
    if not process.stdout.readline():
        output = log.read_text(errors="replace")[-1000:] if log else ""
        raise HostError(f"{what} could not be started: exit code {process.wait(10)} {output}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process, reap it, and close its pipes."""
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _remove_cgroups() -> None:
    """Remove the groups of this process and of others that have exited; the kernel does not do so by itself."""
    for group in (*_CGROUPS.glob("convoy-*-*"), *_CGROUPS.glob("cpu/convoy-*-*")):
        owner = group.name.split("-")[1]
        if owner != str(os.getpid()) and Path(f"/proc/{owner}").exists():
            continue
        # Its processes were killed only a moment ago.
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)
