"""What a driver owes to the `spark-submit` that started it.

`spark-submit` is a JVM that starts the driver as a child and passes its output on through a pipe. That JVM also answers signals:
it ends on Ctrl-C before the driver has ended the run, the pipe breaks, and the last words are lost; and a driver whose JVM was
killed would work on. `attach` mends this, together with the session, which has the JVM leave Ctrl-C to the driver.
"""

import ctypes
import os
import signal
import stat
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def is_submitted() -> bool:
    """True when this process was started by `spark-submit`, which tells its driver this way where to reach it."""
    return sys.platform == "linux" and "PYSPARK_GATEWAY_PORT" in os.environ and _parent_name() == "java"


def attach() -> None:
    """Write to where spark-submit writes (both streams to its output, as it joins them), and get SIGHUP when its JVM ends.

    Call it where SIGHUP ends the process in order. A driver that nobody submitted is left as it is.
    """
    if not is_submitted():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    if _parent_name() != "java":
        os.kill(os.getpid(), signal.SIGHUP)
    try:
        output = os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    except OSError:
        # A socket, for example. The pipe stays.
        return
    if stat.S_ISREG(os.fstat(output).st_mode):
        # Opened anew, a file has a place of its own to write at, and others who hold it would write over our lines.
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
