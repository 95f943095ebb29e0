"""The process of one rank: `python -m pipelines.launch.rank PARENT_PID DETAILS`. Started by the supervisor only."""

import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from pipelines import logs
from pipelines.secrets import mask

RESULT, FAILURE = b"R", b"F"
"""What the outcome of a rank begins with."""
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, so that no rank outlives its task (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have gone before the call above.
        if os.getppid() != parent:
            os._exit(1)


def main(parent: int, details: dict[str, Any]) -> int:
    """Run the function, send its result or a failure report to the supervisor, and return the exit code.

    The order comes by standard input and the outcome goes into a pipe, so that a killed rank leaves no file behind.
    """
    die_with(parent)
    logs.configure(sys.stderr, f"rank {details['rank']}", details["log_level"])
    order = sys.stdin.buffer.read()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    outcome_fd = int(details["outcome_fd"])
    os.set_inheritable(outcome_fd, False)
    import cloudpickle

    from pipelines.launch.failure import of_exception, write_failure

    try:
        function, arguments = cloudpickle.loads(order)
        outcome = RESULT + cloudpickle.dumps(function(*arguments))
        code = 0
    except BaseException as error:
        text = traceback.format_exc()
        sys.stderr.write(mask(text))
        failure = of_exception(error, text, rank=int(details["rank"]), host=details["host"], log_path=details["log_path"])
        # On disk before this process ends: Spark may end the supervisor because of another rank. A full disk leaves the pipe.
        with contextlib.suppress(OSError):
            write_failure(Path(details["work_dir"]), failure)
        outcome, code = FAILURE + failure.to_json().encode(), 1
    with os.fdopen(outcome_fd, "wb") as pipe:
        pipe.write(outcome)
    return code


if __name__ == "__main__":
    # os._exit, because Horovod and TensorFlow threads can hang an orderly exit after a failure.
    code = main(int(sys.argv[1]), json.loads(sys.argv[2]))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
