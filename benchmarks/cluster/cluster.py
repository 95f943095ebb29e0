"""A simulated cluster on one machine, for tests and measurements: hosts in namespaces, connected by a bridge, with Spark daemons.

A host (`network.py`) has its own network interfaces, name, /etc/hosts, processes and Spark work folder. Disk and cores are the
machine's, so every folder is shared.

    with Cluster(tmp, hosts=3) as cluster, cluster.driver() as driver:
        driver.call(function, 1, 2)         runs function(spark, 1, 2) on the driver's host
"""

import contextlib
import os
import shlex
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

from benchmarks.cluster.network import ROOT, Host, HostError, Network, end

_SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
_DAEMON_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData"
_NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
_INTERFACES = ("eth0", "ens5", "wlp3s0", "net1", "eno1", "enp2s0f1")
_START_SECONDS = 60


class CallError(HostError):
    """A function raised on the driver. The message is the exception's, `kind` the name of its type."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class ClusterDriver:
    """A process on the head node with a Spark session, which runs functions on request."""

    process: "subprocess.Popen[bytes]"
    _connection: Connection

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float = 120) -> Any:
        """`function(spark, *arguments)` on the driver.

        Raises:
            CallError: the function raised.
            HostError: it took too long, or the driver has exited.
        """
        self._connection.send_bytes(cloudpickle.dumps((function, arguments)))
        if not self._connection.poll(seconds):
            raise HostError(f"{function} has not returned within {seconds} s")
        try:
            succeeded, answer = cloudpickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise HostError("the driver has exited") from error
        if not succeeded:
            raise CallError(*answer)
        return answer


@dataclass
class Cluster:
    """A head node with Spark's master and the drivers, and worker nodes. Use it in a `with` statement.

    Args:
        folder: for logs, Spark's work folders and each host's files.
        hosts: number of workers.
        cores: task slots per worker.
        own_names: how a worker resolves its own name, one kind per worker in rotation: `right`; `loopback`, as on Debian;
            `decoy`, to a network without other hosts. Spark trusts it.
        quota: cores of the machine that a worker may use; 0 for all.
        python_path: folders whose modules the workers import.
        lost_after: seconds without a heartbeat after which Spark's master considers a worker lost.
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
        """Environment of processes on hosts."""
        path = os.pathsep.join(map(str, (ROOT, *self.python_path)))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "CONVOY_"))}
        return inherited | {
            "PYTHONPATH": path,
            "PYSPARK_PYTHON": sys.executable,
            # An empty folder: the one of the project's environment binds Spark to loopback and silences it.
            "SPARK_CONF_DIR": str(self.folder / "conf"),
            "SPARK_DAEMON_MEMORY": "128m",
            "SPARK_DAEMON_JAVA_OPTS": _DAEMON_JAVA,
            # Workers send four heartbeats in this time.
            "SPARK_MASTER_OPTS": f"-Dspark.worker.timeout={self.lost_after}",
            "SPARK_WORKER_OPTS": f"-Dspark.worker.timeout={self.lost_after}",
            "SPARK_LOCAL_DIRS": str(self.folder / "spark-local"),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def submit_arguments(self) -> list[str]:
        """Arguments of `spark-submit` for a driver on the head node."""
        java = f"{_DAEMON_JAVA} -Xshare:auto"
        conf = {
            "spark.driver.host": self.head.address,
            "spark.driver.memory": "512m",
            "spark.driver.extraJavaOptions": java,
            "spark.executor.extraJavaOptions": java,
            "spark.executor.memory": self.executor_memory,
            # Fetching blocks from a decoy address is futile, but Spark would retry after 5, 10 and 15 seconds.
            "spark.shuffle.io.maxRetries": "0",
            "spark.ui.enabled": "false",
        }
        return ["--master", self.master, *(word for key, value in conf.items() for word in ("--conf", f"{key}={value}"))]

    @contextlib.contextmanager
    def driver(self) -> Iterator[ClusterDriver]:
        """A Spark session on the head node."""
        parent, child = socket.socketpair()
        variables = {"PYSPARK_SUBMIT_ARGS": shlex.join([*self.submit_arguments(), "pyspark-shell"])}
        with parent, child, (self.folder / "driver.log").open("ab") as log:
            process = subprocess.Popen(
                self.head.command(sys.executable, "-m", "benchmarks.cluster.driver", str(child.fileno())),
                env=self.environment() | variables,
                cwd=ROOT,
                pass_fds=[child.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            child.close()
            driver = ClusterDriver(process, Connection(parent.detach()))
            try:
                driver.call(lambda spark: spark.version, seconds=_START_SECONDS)
                yield driver
            finally:
                driver._connection.close()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()

    def start_worker(self, host: Host) -> None:
        """Start Spark's daemon on a worker; again, after the host crashed."""
        work = str(self.folder / f"work-{host.name}")
        self._daemon(host, "worker.Worker", "--cores", str(self.cores), "--memory", "4g", "--work-dir", work, self.master)

    def _build(self) -> None:
        (self.folder / "conf").mkdir(parents=True, exist_ok=True)
        self.network = self._stack.enter_context(Network(self.folder))
        self.head = self.network.add("head", "eth0", 254, "right")
        for number in range(self.hosts):
            kind = self.own_names[number % len(self.own_names)]
            self.workers.append(self.network.add(_NAMES[number], _INTERFACES[number], number + 1, kind, self.quota))
        self.network.name_all()
        self._daemon(self.head, "master.Master", "--host", self.head.address, "--port", "7077", "--webui-port", "8080")
        self._await("master.Master", self.head, "bound to|Started MasterWebUI|I have been elected leader")
        for host in self.workers:
            self.start_worker(host)
        for host in self.workers:
            self._await("worker.Worker", host, "Successfully registered")

    def _daemon(self, host: Host, name: str, *words: str) -> None:
        with self._log(host, name).open("ab") as log:
            command = host.command(str(_SPARK_CLASS), f"org.apache.spark.deploy.{name}", *words)
            process = subprocess.Popen(
                command, env=self.environment(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._stack.callback(end, process)

    def _await(self, name: str, host: Host, words: str) -> None:
        log, deadline = self._log(host, name), time.monotonic() + _START_SECONDS
        while not any(word in log.read_text(errors="replace") for word in words.split("|")):
            if time.monotonic() > deadline:
                raise HostError(f"{name} on {host.name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def _log(self, host: Host, name: str) -> Path:
        return self.folder / f"{name}-{host.name}.log"
