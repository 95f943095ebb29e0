"""What runs on this machine, as the tests see it."""

import subprocess
import sys


def processes_of_ranks() -> list[str]:
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if "pipelines.launch.rank" in line and sys.executable in line]
