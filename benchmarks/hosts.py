"""A cluster on one machine, for tests and measurements: hosts in name spaces, wired by a bridge, with Spark's daemons.

A host has its own network interfaces, name, /etc/hosts, processes and Spark work folder. Disk and cores are the machine's, so
every folder is a shared one. Nothing is made outside the name spaces, and nothing listens there. Each is held by a process that
ends with this one, however this one ends, and the kernel then removes all processes and interfaces in it.

    with Cluster(tmp, hosts=3) as cluster, cluster.driver() as driver:
        driver.call(function, 1, 2)         runs function(spark, 1, 2) on the host that has the driver
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import pyspark

ROOT = Path(__file__).resolve().parents[1]
_SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
_UNSHARE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
# As the first process of a host it must collect those that lose their parents. Its input ends when this process does.
_HOLD = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"
_DAEMON_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData"
_NETWORK = "10.77.0"
# Every host has this one, as with docker0, and another one for itself. Nobody else is on either.
_COMMON_DECOY = "172.17.0.1"
_NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
_INTERFACES = ("eth0", "ens5", "wlp3s0", "net1", "eno1", "enp2s0f1")
_START_SECONDS = 60
_CGROUPS = Path("/sys/fs/cgroup")


class HostError(RuntimeError):
    """A host or a process on it is not what it should be."""


class CallError(HostError):
    """A function raised on the driver. The message is that of its exception, `kind` its type's name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


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


@dataclass
class Driver:
    """A process on the head with a session of Spark, which waits for functions."""

    process: "subprocess.Popen[bytes]"
    _connection: Connection

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float = 120) -> Any:
        """`function(spark, *arguments)` on the driver.

        Raises:
            CallError: it raised.
            HostError: it took too long, or the driver is gone.
        """
        self._connection.send_bytes(cloudpickle.dumps((function, arguments)))
        if not self._connection.poll(seconds):
            raise HostError(f"{function} has not returned within {seconds} s")
        try:
            fine, answer = cloudpickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise HostError("the driver is gone") from error
        if not fine:
            raise CallError(*answer)
        return answer


@dataclass
class Cluster:
    """A head, which has Spark's master and the drivers, and workers. Use it in a `with` statement.

    Args:
        folder: for logs, Spark's work folders and each host's files.
        hosts: how many workers.
        cores: task slots of each.
        own_names: what a worker's own name means to itself, in turn: `right`; `loopback`, as Debian has it; `decoy`, a network
            that nobody else is on. Spark believes it.
        quota: cores of the machine that a worker may use; 0 for all.
        python_path: folders whose modules the workers import.
        lost_after: seconds after which Spark's master gives up a worker that does not call.
    """

    folder: Path
    hosts: int = 3
    cores: int = 1
    own_names: Sequence[str] = ("right",)
    quota: float = 0
    python_path: Sequence[Path] = ()
    lost_after: int = 60
    executor_memory: str = "512m"
    workers: list[Host] = field(default_factory=list)

    def __enter__(self) -> "Cluster":
        self._stack = contextlib.ExitStack()
        # Last of all, when nothing runs in them any more.
        self._stack.callback(_remove_cgroups)
        try:
            self._build()
            return self
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def master(self) -> str:
        return f"spark://{self.head.address}:7077"

    def environment(self) -> dict[str, str]:
        """For processes on hosts."""
        path = os.pathsep.join(map(str, (ROOT, *self.python_path)))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "CONVOY_"))}
        return kept | {
            "PYTHONPATH": path,
            "PYSPARK_PYTHON": sys.executable,
            # An empty one: that of the project's environment keeps Spark on loopback and quiet.
            "SPARK_CONF_DIR": str(self.folder / "conf"),
            "SPARK_DAEMON_MEMORY": "128m",
            "SPARK_DAEMON_JAVA_OPTS": _DAEMON_JAVA,
            # Workers call four times in this time.
            "SPARK_MASTER_OPTS": f"-Dspark.worker.timeout={self.lost_after}",
            "SPARK_WORKER_OPTS": f"-Dspark.worker.timeout={self.lost_after}",
            "SPARK_LOCAL_DIRS": str(self.folder / "spark-local"),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def submit_arguments(self) -> list[str]:
        """Of `spark-submit`, for a driver on the head."""
        java = f"{_DAEMON_JAVA} -Xshare:auto"
        conf = {
            "spark.driver.host": self.head.address,
            "spark.driver.memory": "512m",
            "spark.driver.extraJavaOptions": java,
            "spark.executor.extraJavaOptions": java,
            "spark.executor.memory": self.executor_memory,
            # Spark tries to copy blocks from a decoy, in vain, and otherwise again after 5, 10 and 15 seconds.
            "spark.shuffle.io.maxRetries": "0",
            "spark.ui.enabled": "false",
        }
        return ["--master", self.master, *(word for key, value in conf.items() for word in ("--conf", f"{key}={value}"))]

    @contextlib.contextmanager
    def driver(self) -> Iterator[Driver]:
        """A session of Spark on the head."""
        here, there = socket.socketpair()
        variables = {"PYSPARK_SUBMIT_ARGS": shlex.join([*self.submit_arguments(), "pyspark-shell"])}
        with here, there, (self.folder / "driver.log").open("ab") as log:
            process = subprocess.Popen(
                self.head.command(sys.executable, "-m", "benchmarks.hostdriver", str(there.fileno())),
                env=self.environment() | variables,
                cwd=ROOT,
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            there.close()
            driver = Driver(process, Connection(here.detach()))
            try:
                driver.call(lambda spark: spark.version, seconds=_START_SECONDS)
                yield driver
            finally:
                driver._connection.close()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()

    def cut(self, host: Host) -> None:
        """Take a host off the network, as if its cable were pulled."""
        self._hub("ip", "link", "set", _port(host), "down")

    def crash(self, host: Host) -> None:
        """End all processes of a host at once, as a reset would."""
        # Within its name space, -1 means all but the one that holds it, which cannot be killed from there.
        host.run("sh", "-c", "kill -9 -1")

    def limit(self, megabits: float) -> None:
        """Let each host send so much a second, with a token bucket; 0 for as much as it can."""
        for host in (self.head, *self.workers):
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
        names = [_port(host) for host in (self.head, *self.workers)]
        log = self._stack.enter_context((self.folder / "delay.log").open("ab"))
        command = [sys.executable, "-m", "benchmarks.delayline", str(seconds), *names]
        process = subprocess.Popen(
            ["nsenter", "--target", str(self._hub_pid), "--net", *command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            self._offload(0)
            _wait_for_line(process, "the delay line", self.folder / "delay.log")
            yield
        finally:
            process.stdin.close()
            process.wait(10)
            self._offload(1)

    def _offload(self, on: int) -> None:
        for host in (self.head, *self.workers):
            host.run("env", "-C", str(ROOT), sys.executable, "-m", "benchmarks.offload", host.interface, str(on))

    def _build(self) -> None:
        (self.folder / "conf").mkdir(parents=True, exist_ok=True)
        self._hub_pid = self._hold()
        self._hub("ip", "link", "add", "name", "br0", "type", "bridge")
        self._hub("ip", "link", "set", "br0", "up")
        self.head = self._host("head", "eth0", 254, "right")
        for number in range(self.hosts):
            kind = self.own_names[number % len(self.own_names)]
            host = self._host(_NAMES[number], _INTERFACES[number], number + 1, kind)
            host.cgroup = self._cgroup(host) if self.quota else None
            self.workers.append(host)
        self._name_all()
        self._daemon(self.head, "master.Master", "--host", self.head.address, "--port", "7077", "--webui-port", "8080")
        self._await("master.Master", self.head, "bound to|Started MasterWebUI|I have been elected leader")
        for host in self.workers:
            work = str(self.folder / f"work-{host.name}")
            self._daemon(host, "worker.Worker", "--cores", str(self.cores), "--memory", "4g", "--work-dir", work, self.master)
        for host in self.workers:
            self._await("worker.Worker", host, "Successfully registered")

    def _hold(self) -> int:
        """Make the name spaces of a host. Gives the process, as this one sees it, that is the first in them."""
        process = subprocess.Popen(
            [*_UNSHARE, sys.executable, "-I", "-S", "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._stack.callback(_end, process)
        _wait_for_line(process, "a host")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(child)

    def _host(self, name: str, interface: str, number: int, kind: str) -> Host:
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
        return host

    def _name_all(self) -> None:
        """Each host has its own idea of the names."""
        everyone = (self.head, *self.workers)
        for host in everyone:
            lines = [f"{one.own_name_is if one is host else one.address} {one.name}" for one in everyone]
            table = self.folder / f"hosts-{host.name}"
            table.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            host.run("mount", "--bind", str(table), "/etc/hosts")

    def _cgroup(self, host: Host) -> Path:
        """A control group that holds back the processor: version 2, or 1 where that is mounted."""
        period = 20_000
        first = _CGROUPS / "cpu"
        group = (first if first.is_dir() else _CGROUPS) / f"convoy-{os.getpid()}-{host.name}"
        group.mkdir()
        if first.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(int(period * self.quota)))
        else:
            (group / "cpu.max").write_text(f"{int(period * self.quota)} {period}")
        return group

    def _daemon(self, host: Host, name: str, *words: str) -> None:
        with self._log(host, name).open("ab") as log:
            command = host.command(str(_SPARK_CLASS), f"org.apache.spark.deploy.{name}", *words)
            process = subprocess.Popen(
                command, env=self.environment(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._stack.callback(_end, process)

    def _await(self, name: str, host: Host, words: str) -> None:
        log, deadline = self._log(host, name), time.monotonic() + _START_SECONDS
        while not any(word in log.read_text(errors="replace") for word in words.split("|")):
            if time.monotonic() > deadline:
                raise HostError(f"{name} on {host.name} does not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def _log(self, host: Host, name: str) -> Path:
        return self.folder / f"{name}-{host.name}.log"

    def _hub(self, *words: str) -> str:
        return _run(["nsenter", "--target", str(self._hub_pid), "--net", *words])


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


def _end(process: "subprocess.Popen[bytes]") -> None:
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
