"""The driver's connection to the `spark-submit` that started it.

`spark-submit` is a JVM that starts the driver as a child and forwards its output through a pipe. That JVM also handles signals:
on Ctrl-C it exits before the driver has finished the run, the pipe breaks, and the last lines are lost; and a driver whose JVM
was killed would keep running. `attach` fixes this, together with the session, which makes the JVM leave Ctrl-C to the driver.
"""

import ctypes
import os
import signal
import stat
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def is_submitted() -> bool:
    """Whether this process was started by `spark-submit`, which sets PYSPARK_GATEWAY_PORT for its driver."""
    return sys.platform == "linux" and "PYSPARK_GATEWAY_PORT" in os.environ and _parent_name() == "java"


def attach() -> None:
    """Write directly to spark-submit's output (both streams, which it merges), and receive SIGHUP when its JVM exits.

    Call it once SIGHUP leads to an orderly exit. Does nothing in a driver that was not submitted.
    """
    if not is_submitted():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    if _parent_name() != "java":
        os.kill(os.getpid(), signal.SIGHUP)
    try:
        output = os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    except OSError:
        # A socket, for example. Keep the pipe.
        return
    if stat.S_ISREG(os.fstat(output).st_mode):
        # A reopened file has its own write position: other writers would overwrite our lines.
        os.close(output)
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    os.close(output)


def _parent_name() -> str:
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
