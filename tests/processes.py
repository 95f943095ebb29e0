"""What runs on this machine, as the tests see it."""

import contextlib
import subprocess
import sys
import time

import psutil


def processes_of_ranks() -> list[str]:
    found = subprocess.run(["ps", "-eo", "pid,comm,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if " convoy-rank-" in line and sys.executable in line]


def wait_until_no_rank_is_left() -> None:
    deadline = time.monotonic() + 10
    while processes_of_ranks():
        assert time.monotonic() < deadline, processes_of_ranks()
        time.sleep(0.1)


def python_daemons() -> list[psutil.Process]:
    """Of the Spark session of this process: their children run its tasks."""
    daemons = []
    for process in psutil.Process().children(recursive=True):
        # Children of other tests may end meanwhile, or have ended and not been waited for.
        with contextlib.suppress(psutil.Error):
            if "pyspark.daemon" in process.cmdline():
                daemons.append(process)
    return [process for process in daemons if process.parent() not in daemons]
