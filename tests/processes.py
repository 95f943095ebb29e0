"""What runs on this machine, as the tests see it."""

import subprocess
import sys
import time


def processes_of_ranks() -> list[str]:
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if "pipelines.launch.rank" in line and sys.executable in line]


def wait_until_no_rank_is_left() -> None:
    deadline = time.monotonic() + 10
    while processes_of_ranks():
        assert time.monotonic() < deadline, processes_of_ranks()
        time.sleep(0.1)
