"""The process of one rank: `python -m pipelines.launch.rank PARENT_PID DETAILS`. Started by the supervisor only."""

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, so that no rank outlives its task (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have gone before the call above.
        if os.getppid() != parent:
            os._exit(1)


def main(parent: int, details: dict[str, str]) -> int:
    """Run the function, leave its result or a failure report, and return the exit code."""
    die_with(parent)
    import cloudpickle

    from pipelines.launch.failure import of_exception, write_failure

    try:
        function, arguments = cloudpickle.loads(Path(details["order"]).read_bytes())
        outcome = cloudpickle.dumps(function(*arguments))
    except BaseException as error:
        text = traceback.format_exc()
        sys.stderr.write(text)
        failure = of_exception(error, text, rank=int(details["rank"]), host=details["host"], log_path=details["log_path"])
        write_failure(Path(details["work_dir"]), failure)
        return 1
    Path(details["outcome"]).write_bytes(outcome)
    return 0


if __name__ == "__main__":
    # os._exit, because Horovod and TensorFlow threads can hang an orderly exit after a failure.
    code = main(int(sys.argv[1]), json.loads(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
