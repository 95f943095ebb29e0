"""Finds the Python for the environment: one on this machine, else one from its package manager, else one from uv."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from typing import Iterable, Iterator, NamedTuple, Sequence

from tools.setup.clone import SetupError, cache, locked_block, say
from tools.setup.steps import Steps

_PROBE = (
    "import importlib.util as u, sys; b = getattr(sys, '_base_executable', None) or sys.executable;"
    "print('%d.%d' % sys.version_info[:2], int(all(map(u.find_spec, ['venv', 'ensurepip']))), b)"
)


class Interpreter(NamedTuple):
    path: str
    version: str
    has_venv: bool
    """Whether it can create environments."""


def find_python(steps: Steps) -> Interpreter:
    """The interpreter for the environment. Installs one if the machine has none and the user is allowed to.

    Raises:
        SetupError: there is none, and none could be installed; names the package that this system offers.
    """
    versions = steps.clone.pythons
    found = best(candidates(versions), versions)
    if found is not None:
        return found
    needed = f"Python {' or '.join(versions)} is needed but was not found"
    offered = offered_by_apt(versions)
    if offered is not None:
        # Debian has venv in a separate package.
        steps.install_system_packages([offered, f"{offered}-venv"], needed)
    else:
        say(f"{needed}, and this system's package manager does not offer it; downloading one with uv")
        _install_with_uv(steps, versions[0])
    found = best(candidates(versions), versions)
    if found is None:
        raise SetupError(f"{needed}; install one of them, then run ./convoy again")
    return found


def candidates(versions: Sequence[str]) -> Iterator[str]:
    """Paths of possible interpreters. A file that exists need not work: pyenv's shims exist and may fail when run."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"]
    for version in versions:
        yield from (f"{folder}/python{version}" for folder in folders if folder)
        for managed in (
            "~/.pyenv/versions/{0}*/bin/python{0}",
            "~/.local/share/uv/python/cpython-{0}.*/bin/python{0}",
            f"{cache()}/python/cpython-{{0}}.*/bin/python{{0}}",
        ):
            yield from sorted(glob.glob(os.path.expanduser(managed.format(version))))
    yield from (f"{folder}/python3" for folder in folders if folder)
    yield sys.executable


def best(paths: Iterable[str], versions: Sequence[str]) -> Interpreter | None:
    """The best interpreter: those that can create environments first, then by the order of versions."""
    ranked: dict[tuple[bool, int], Interpreter] = {}
    for path in dict.fromkeys(paths):
        if not os.access(path, os.X_OK):
            continue
        try:
            found = subprocess.run([path, "-I", "-c", _PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            continue
        parts = found.stdout.decode(errors="replace").split(None, 2)
        if found.returncode == 0 and len(parts) == 3 and parts[0] in versions:
            rank = (parts[1] == "0", versions.index(parts[0]))
            ranked.setdefault(rank, Interpreter(parts[2].strip(), parts[0], parts[1] == "1"))
            if rank == (False, 0):
                break
    return ranked[min(ranked)] if ranked else None


def offered_by_apt(versions: Sequence[str]) -> str | None:
    """The best Python package that apt offers, such as python3.11; None if there is none, or no apt."""
    try:
        shown = subprocess.run(
            ["apt-cache", "search", "--names-only", r"^python3\.[0-9]+$"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = re.findall(r"^python3\.\d+(?= )", shown.stdout.decode(errors="replace"), re.M)
    return next((f"python{version}" for version in versions if f"python{version}" in names), None)


def _install_with_uv(steps: Steps, version: str) -> None:
    """Have uv download a Python to the cache. Raises SetupError if that fails."""
    advice = f"install Python {version} (https://docs.python.org/3/using/unix.html), then run ./convoy again"
    try:
        uv = shutil.which("uv") or _uv_of_pip(steps)
        steps.run(f"Python {version} from uv", [uv, "python", "install", "--install-dir", f"{cache()}/python", version])
    except SetupError as error:
        raise SetupError(f"{advice}\n{error}") from None


def _uv_of_pip(steps: Steps) -> str:
    """Path of uv, which does not need a Python, installed by the pip of the Python that runs this."""
    cache().mkdir(parents=True, exist_ok=True)
    folder, pinned = cache() / "uv-program", cache() / "uv.txt"
    pinned.write_text(locked_block(steps.clone.packages.read_text(), "uv"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--require-hashes", "--no-deps", "--upgrade"]
    steps.run("uv, the installer", [*pip, "--target", str(folder), "-r", str(pinned)])
    return str(folder / "bin/uv")
