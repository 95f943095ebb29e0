"""Runs the steps of the set-up: programs whose output goes to a log, one set-up at a time."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Iterator, Sequence

from tools.setup.clone import Clone, SetupError, say


class Steps:
    """Runs the programs of one set-up with their environment variables.

    Args:
        clone: the clone to set up.
        lock: descriptor of the lock file that this set-up holds.
    """

    def __init__(self, clone: Clone, lock: int) -> None:
        self.clone = clone
        self.lock = lock
        self.variables: dict[str, str] = dict(os.environ)
        # Bytecode is wanted: without it, every start compiles TensorFlow's thousands of modules.
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET"):
            self.variables.pop(name, None)

    def run(self, what: str, command: Sequence[str], extra: dict[str, str] | None = None, killable: bool = True) -> None:
        """Run a program with its output in the log file, and print the step and its duration.

        Raises:
            SetupError: it failed; quotes the end of the log.
        """
        print(f"convoy: {what} ...", end=" ", flush=True)
        start = time.monotonic()
        with open(self.clone.log, "a") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            # The child also holds the lock: no other set-up starts while it still writes to .venv.
            code = subprocess.run(
                command,
                env={**self.variables, **(extra or {})},
                cwd=str(self.clone.root),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.lock],
                preexec_fn=_die_with_parent if killable else None,
            ).returncode
        print(f"{time.monotonic() - start:.0f} s" if code == 0 else "failed", flush=True)
        if code:
            tail = "\n".join("    " + line for line in self.clone.log.read_text(errors="replace").splitlines()[-12:])
            raise SetupError(f"'{what}' failed with exit code {code}. The end of {self.clone.log}:\n{tail}")

    def uv(self, what: str, *arguments: str) -> None:
        self.run(what, [str(self.clone.venv / "bin/uv"), "pip", *arguments])

    def install_system_packages(self, packages: list[str], why: str) -> None:
        """Install packages with apt, if the user is allowed to.

        Raises:
            SetupError: it failed; gives the command to run.
        """
        names = " ".join(packages)
        advice = f"{names} is missing ({why}); install it (apt-get install {names}), then run ./convoy again"
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if not shutil.which("apt-get") or (root and not _succeeds(["sudo", "-n", "true"])):
            raise SetupError(advice)
        apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"]
        install = [*apt, "install", "-y", "--no-install-recommends", *packages]
        try:
            if not _succeeds([*install, "--simulate"]):
                self.run("list of system packages", [*apt, "update"], killable=False)
            self.run(f"system packages {names} ({why})", install, killable=False)
        except SetupError as error:
            raise SetupError(f"{advice}\n{error}") from None


@contextlib.contextmanager
def exclusive(file: Path, waiting: str) -> Iterator[int]:
    """Hold a lock that the system releases when the process ends, however it ends."""
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _die_with_parent() -> None:
    """End a child with its parent: a killed set-up must not leave an installer behind that still writes to .venv."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return (
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
            == 0
        )
    except OSError:
        return False
