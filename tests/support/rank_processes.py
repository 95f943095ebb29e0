"""The processes of ranks and of Spark on this machine."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil


def processes_of_ranks() -> list[str]:
    """Lines of `ps` for ranks of this environment, and of this test process if several run in parallel."""
    lines = subprocess.run(["ps", "-eo", "pid,comm,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if " convoy-rank-" in line and sys.executable in line and _is_ours(int(line.split()[0]))]


def _is_ours(pid: int) -> bool:
    name = "PYTEST_XDIST_WORKER"
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        # It has just exited.
        return False
    return name not in os.environ or os.fsencode(f"{name}={os.environ[name]}") in environment


def wait_until_no_rank_is_left() -> None:
    deadline = time.monotonic() + 10
    while processes_of_ranks():
        assert time.monotonic() < deadline, processes_of_ranks()
        time.sleep(0.1)


def python_daemons() -> list[psutil.Process]:
    """PySpark daemons of this process's Spark session; their children run its tasks."""
    parents = {}
    for process in psutil.Process().children(recursive=True):
        # Some may exit meanwhile, or be zombies.
        with contextlib.suppress(psutil.Error):
            if "pyspark.daemon" in process.cmdline():
                parents[process] = process.ppid()
    pids = {process.pid for process in parents}
    return [process for process, parent in parents.items() if parent not in pids]
