"""Where the training of `soak.py` runs, and the processes that it is made of there."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.cluster.cluster import Cluster
from benchmarks.cluster.network import Host
from benchmarks.processes import SUBMIT

# What a node needs to start again.
_REBOOT_SECONDS = 2.0

Find = Callable[[list[psutil.Process]], list[psutil.Process]]


def _with(sign: str, java: bool = False) -> Find:
    """Finds processes by a part of their command line."""

    def find(processes: list[psutil.Process]) -> list[psutil.Process]:
        found = [process for process in processes if any(sign in word for word in _words(process))]
        return [process for process in found if (_name(process) == "java") == java]

    return find


def _supervisors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Spark's Python workers, in which the supervisors of ranks run: children of Spark's daemon, which have its command line."""
    daemons = {process.pid: process.ppid() for process in _with("pyspark.daemon")(processes)}
    return [process for process in processes if daemons.get(process.pid) in daemons]


def _ranks(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if _name(process).startswith("convoy-rank-")]


def _fork_servers(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without the ranks that they have forked, which have their command line."""
    return [process for process in _with("pipelines.launch.workers.forkserver")(processes) if not _ranks([process])]


def _drivers(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = [process for process in _with("train_cnn.py")(processes) if "python" in _name(process)]
    # A newly forked child briefly has its parent's command line.
    return [process for process in found if process.ppid() not in {other.pid for other in found}]


KINDS: dict[str, Find] = {
    "rank": _ranks,
    "supervisor": _supervisors,
    "fork server": _fork_servers,
    "executor": _with("CoarseGrainedExecutorBackend", java=True),
    "driver": _drivers,
    "driver's Java": _with("org.apache.spark.deploy.SparkSubmit", java=True),
}
HOST = "host"
DRIVERS = ("driver", "driver's Java")


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _own_processes() -> list[psutil.Process]:
    """All that this process has started, and that is no zombie."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


@dataclass
class ThisMachine:
    """Spark in local mode, with two task slots."""

    name = "local"
    kinds = ("rank", "supervisor", "fork server", "driver", "driver's Java")

    def submit(self, words: list[str]) -> list[str]:
        """The command that submits a job."""
        return [str(SUBMIT), "--master", "local[2]", *words]

    def environment(self, home: Path) -> dict[str, str]:
        return os.environ | _settings(home) | {"SPARK_LOCAL_IP": "127.0.0.1"}

    def kill(self, kind: str, number: Callable[[int], int]) -> bool:
        """SIGKILL one process of a kind; `number` chooses among so many. False if there is none."""
        found = KINDS[kind](_own_processes())
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            found[number(len(found))].kill()
            return True
        return False


@dataclass
class Hosts(ThisMachine):
    """Three hosts in name spaces and a head node (`cluster/`), for two workers."""

    cluster: Cluster

    name = "hosts"
    kinds = ("rank", "supervisor", "executor", HOST, "driver", "driver's Java")

    def submit(self, words: list[str]) -> list[str]:
        return self.cluster.head.command(str(SUBMIT), *self.cluster.submit_arguments(), *words)

    def environment(self, home: Path) -> dict[str, str]:
        return self.cluster.environment() | _settings(home)

    def kill(self, kind: str, number: Callable[[int], int]) -> bool:
        if kind != HOST:
            return super().kill(kind, number)
        host = self.cluster.workers[number(len(self.cluster.workers))]
        host.crash()
        threading.Thread(target=self._start_again, args=(host,), daemon=True).start()
        return True

    def _start_again(self, host: Host) -> None:
        time.sleep(_REBOOT_SECONDS)
        self.cluster.start_worker(host)


def _settings(home: Path) -> dict[str, str]:
    return {
        "CONVOY_HOME": str(home),
        "CONVOY_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_DIRS": str(home / "temporary"),
        "TMPDIR": str(home / "temporary"),
    }


def left_running() -> list[str]:
    """Command lines of what is left of a training, without the hosts and Spark's daemons on them."""
    left = []
    for process in _own_processes():
        line = " ".join(_words(process))
        if any(find([process]) for find in KINDS.values()) or "pyspark.daemon" in line:
            left.append(line[:120])
    return left
