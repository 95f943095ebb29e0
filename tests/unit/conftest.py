import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def _obey_permissions():
    """Root reads and writes what it likes by two capabilities; without them a mode counts for root, too."""
    if os.getuid() == 0:
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if ctypes.CDLL(None, use_errno=True).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "a capability could not be dropped")


@pytest.fixture
def unprivileged():
    """Runs code in a process to which file permissions apply. Gives back the last line it said."""

    def run(code):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
            preexec_fn=_obey_permissions,
        )
        return (done.stdout + done.stderr).strip().splitlines()[-1].removeprefix("pipelines.errors.")

    return run
