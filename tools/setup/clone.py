"""One clone of the repository on this machine: its paths, and the messages of the set-up."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.system import path_rules

PYTHONS = ("3.13", "3.12", "3.11", "3.10")
"""Versions for the default environment, in order of preference."""


class SetupError(Exception):
    """A problem that the user can fix, described in one line."""


@dataclass(frozen=True)
class Clone:
    """Paths of a clone, for the default environment or that of a Databricks runtime.

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
        """The file that a completed set-up writes."""
        return self.venv / ".convoy-ready"

    @property
    def log(self) -> Path:
        return self.root / ".convoy-setup.log"

    @property
    def setup_lock(self) -> Path:
        """The lock file that a running set-up holds."""
        return self.root / ".convoy-setup.lock"

    @property
    def packages(self) -> Path:
        """The lock file of the packages."""
        return self.root / f"conf/constraints/{self.runtime}.lock"

    @property
    def pythons(self) -> tuple[str, ...]:
        """Python versions that the environment can be built with, in order of preference."""
        if self.runtime == "local":
            return PYTHONS
        facts = self.packages.with_suffix(".txt")
        found = re.search(r"^# Python (3\.\d+),", facts.read_text(), re.M)
        if found is None:
            raise SetupError(f"{facts} does not say which Python version the runtime has")
        return (found.group(1),)

    @property
    def horovod(self) -> Path:
        """The lock file of Horovod's source distribution."""
        return self.root / "conf/constraints/horovod.lock"

    @property
    def spark_conf(self) -> Path:
        return self.root / "conf/spark"

    def check_folder(self) -> None:
        """Raises SetupError if the clone or the downloads are where no environment works, or the working directory is gone."""
        try:
            os.getcwd()
        except OSError:
            raise SetupError("the working directory no longer exists; change to one that does") from None
        for folder, remedy in ((self.root, "move the clone there"), (cache(), "set CONVOY_CACHE to it")):
            fault = path_rules.clone_fault(str(folder))
            if fault:
                raise SetupError(f"{path_rules.shown(str(folder))}: {fault}, and {remedy}")

    def check_runtime(self) -> None:
        """Raises SetupError for a runtime without a lock file."""
        known = sorted(lock.stem for lock in self.packages.parent.glob("*.lock") if lock != self.horovod)
        if self.runtime not in known:
            raise SetupError(f"CONVOY_RUNTIME={self.runtime}: must be one of {', '.join(known)}")


def cache() -> Path:
    """The folder of downloads and compiled wheels."""
    return Path(os.environ.get("CONVOY_CACHE") or Path.home() / ".cache/convoy").absolute()


def locked_version(lock: Path, name: str) -> str:
    """The version of a package that a lock file pins; for TensorFlow, of the package for this processor."""
    pinned = dict(re.findall(r"^([\w-]+)==([^\s;]+)", lock.read_text(), re.M))
    names = ("tensorflow-cpu", "tensorflow") if name == "tensorflow" else (name,)
    version = next((pinned[each] for each in names if each in pinned), None)
    if version is None:
        raise SetupError(f"{lock} pins no {name}; regenerate the lock file")
    return str(version)


def locked_block(lock: str, name: str) -> str:
    """The lines of a lock file for one package, including its hashes."""
    found = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", lock, re.M | re.S)
    if found is None:
        raise SetupError(f"the lock file pins no {name}; regenerate it")
    return found.group(0)


def say(text: object) -> None:
    print(f"convoy: {text}", flush=True)


def replace(file: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file atomically. Writing into the old one could change uv's cache, which it may be hard-linked to."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, file)
