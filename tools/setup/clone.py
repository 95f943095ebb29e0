"""One clone of the repository on this machine: its paths, and how the set-up speaks to the user."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.system import path_rules

PYTHONS = ("3.13", "3.12", "3.11", "3.10")
"""Of the default environment, the preferred one first."""


class SetupError(Exception):
    """What the user can mend, in one line."""


@dataclass(frozen=True)
class Clone:
    """Paths of a clone, for the default environment or for that of a Databricks runtime.

    Attributes:
        root: the repository.
        runtime: "local", or the name of a lock file in conf/constraints.
    """

    root: Path
    runtime: str = "local"

    @property
    def venv(self) -> Path:
        return self.root / (".venv" if self.runtime == "local" else f".venv-{self.runtime}")

    @property
    def python(self) -> Path:
        return self.venv / "bin/python"

    @property
    def site_packages(self) -> Path:
        return next(self.venv.glob("lib/python3.*/site-packages"))

    @property
    def ready(self) -> Path:
        """The file that a finished set-up leaves."""
        return self.venv / ".convoy-ready"

    @property
    def log(self) -> Path:
        return self.root / ".convoy-setup.log"

    @property
    def setup_lock(self) -> Path:
        """Held by the one set-up that runs."""
        return self.root / ".convoy-setup.lock"

    @property
    def packages(self) -> Path:
        """The lock file of the packages."""
        return self.root / f"conf/constraints/{self.runtime}.lock"

    @property
    def pythons(self) -> tuple[str, ...]:
        """Python versions that may make the environment, the preferred one first."""
        if self.runtime == "local":
            return PYTHONS
        facts = self.packages.with_suffix(".txt")
        found = re.search(r"^# Python (3\.\d+),", facts.read_text(), re.M)
        if found is None:
            raise SetupError(f"{facts} does not say which Python the runtime has")
        return (found.group(1),)

    @property
    def horovod(self) -> Path:
        """The lock file of Horovod's source distribution."""
        return self.root / "conf/constraints/horovod.lock"

    @property
    def spark_conf(self) -> Path:
        return self.root / "conf/spark"

    def check_folder(self) -> None:
        """Raises SetupError for a folder in which an environment would not work."""
        fault = path_rules.clone_fault(str(self.root))
        if fault:
            raise SetupError(f"{path_rules.printable(str(self.root))}: {fault}, and move the clone there")

    def check_runtime(self) -> None:
        """Raises SetupError for a runtime without a lock file."""
        known = sorted(lock.stem for lock in self.packages.parent.glob("*.lock") if lock != self.horovod)
        if self.runtime not in known:
            raise SetupError(f"CONVOY_RUNTIME={self.runtime}: must be one of {', '.join(known)}")


def cache() -> Path:
    """Folder of downloads and compiled wheels."""
    return Path(os.environ.get("CONVOY_CACHE") or Path.home() / ".cache/convoy").absolute()


def locked_version(lock: Path, name: str) -> str:
    """The version that a lock file pins; for TensorFlow, of the package for this processor."""
    pinned = dict(re.findall(r"^([\w-]+)==([^\s;]+)", lock.read_text(), re.M))
    names = ("tensorflow-cpu", "tensorflow") if name == "tensorflow" else (name,)
    version = next((pinned[each] for each in names if each in pinned), None)
    if version is None:
        raise SetupError(f"{lock} pins no {name}; write the lock file anew")
    return str(version)


def locked_block(lock: str, name: str) -> str:
    """The lines of a lock file that belong to one package, hashes included."""
    found = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", lock, re.M | re.S)
    if found is None:
        raise SetupError(f"the lock file pins no {name}; write it anew")
    return found.group(0)


def say(text: object) -> None:
    print(f"convoy: {text}", flush=True)


def replace(file: Path, text: str, mode: int = 0o644) -> None:
    """Whole or not at all, and never into the old file: it may be one with that in uv's cache."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, file)
