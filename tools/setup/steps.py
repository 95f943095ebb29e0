"""Runs the steps of the set-up: programs whose output goes to a log, one set-up at a time."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Iterator, Sequence

from pipelines.system.secrets import masker
from tools.setup.clone import Clone, SetupError, cache, say
from tools.setup.network import unreached

_LITTLE_SPACE = 20 * 2**20
# Before each command in the log.
_PROMPT = "\n$ "


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
            SetupError: it failed; says what could not be reached, or quotes the end of the log.
        """
        print(f"convoy: {what} ...", end=" ", flush=True)
        start = time.monotonic()
        variables = {**self.variables, **(extra or {})}
        try:
            code = self._run(command, variables, killable)
        except OSError as error:
            print("failed", flush=True)
            raise SetupError(f"'{what}' failed: {error.filename or command[0]}: {error.strerror}{self._full_disks()}") from error
        print(f"{time.monotonic() - start:.0f} s" if code == 0 else "failed", flush=True)
        if code:
            text = self.clone.log.read_text(errors="replace")
            full = self._full_disks()
            missed = unreached(command, text.rpartition(_PROMPT)[2])
            if missed and not full:
                server, remedy = missed
                raise SetupError(
                    f"'{what}' failed: {server} cannot be reached ({self.clone.log} says why); {remedy}, then run ./convoy again"
                )
            tail = "\n".join("    " + line for line in text.splitlines()[-12:])
            raise SetupError(f"'{what}' failed with exit code {code}{full}. The end of {self.clone.log}:\n{tail}")

    def _run(self, command: Sequence[str], variables: dict[str, str], killable: bool) -> int:
        """Run a program. Its output goes to the log without credentials, such as those of a package index."""
        mask = masker(variables)
        with open(self.clone.log, "a", opener=_owner_only) as log:
            log.write(f"{_PROMPT}{mask(' '.join(command))}\n")
            log.flush()
            # The child also holds the lock: no other set-up starts while it still writes to .venv.
            process = subprocess.Popen(
                command,
                env=variables,
                cwd=str(self.clone.root),
                stdin=subprocess.DEVNULL,
                # One that must survive this process must not write to it.
                stdout=subprocess.PIPE if killable else log,
                stderr=subprocess.STDOUT,
                pass_fds=[self.lock],
                preexec_fn=_die_with_parent if killable else None,
                text=True,
                errors="replace",
            )
            with process:
                try:
                    for line in process.stdout or ():
                        log.write(mask(line))
                        log.flush()
                except BaseException:
                    process.kill()
                    raise
        if not killable:
            self.clone.log.write_text(mask(self.clone.log.read_text(errors="replace")))
        return process.returncode

    def _full_disks(self) -> str:
        """Which of the disks that a set-up writes to are full, for an error."""
        places = (self.clone.root, cache(), Path(tempfile.gettempdir()))
        existing = (next(path for path in (place, *place.parents) if path.exists()) for place in places)
        full = sorted({str(path) for path in existing if shutil.disk_usage(str(path)).free < _LITTLE_SPACE})
        return f" (no space left on the disk of {' and '.join(full)}: free some, then run ./convoy again)" if full else ""

    def uv(self, what: str, *arguments: str) -> None:
        self.run(what, [str(self.clone.venv / "bin/uv"), "pip", *arguments])

    def new_log(self) -> None:
        """Start an empty log, which its owner alone may read."""
        self.clone.log.unlink(missing_ok=True)
        with open(self.clone.log, "w", opener=_owner_only):
            pass

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


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
