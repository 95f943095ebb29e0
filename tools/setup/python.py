"""Which Python makes the environment."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from typing import Iterable, Iterator, NamedTuple

from tools.setup.clone import SetupError

PYTHONS = ("3.11", "3.10")

_PROBE = (
    "import importlib.util as u, sys; b = getattr(sys, '_base_executable', None) or sys.executable;"
    "print('%d.%d' % sys.version_info[:2], int(all(map(u.find_spec, ['venv', 'ensurepip']))), b)"
)


class Interpreter(NamedTuple):
    path: str
    version: str
    has_venv: bool
    """Whether it can make environments."""


def candidates() -> Iterator[str]:
    """Interpreters that may be there. Being there says little: a pyenv shim exists and fails when run."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"]
    for version in PYTHONS:
        yield from (f"{folder}/python{version}" for folder in folders if folder)
        for managed in ("~/.pyenv/versions/{}*/bin/python{}", "~/.local/share/uv/python/cpython-{}.*/bin/python{}"):
            yield from sorted(glob.glob(os.path.expanduser(managed.format(version, version))))
    yield from (f"{folder}/python3" for folder in folders if folder)
    yield sys.executable


def find_python(paths: Iterable[str]) -> Interpreter:
    """The best interpreter: 3.11 before 3.10, able to make environments before unable.

    Raises:
        SetupError: there is none.
    """
    best: dict[tuple[bool, int], Interpreter] = {}
    for path in dict.fromkeys(paths):
        if not os.access(path, os.X_OK):
            continue
        try:
            found = subprocess.run([path, "-I", "-c", _PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            continue
        parts = found.stdout.decode(errors="replace").split(None, 2)
        if found.returncode == 0 and len(parts) == 3 and parts[0] in PYTHONS:
            rank = (parts[1] == "0", PYTHONS.index(parts[0]))
            best.setdefault(rank, Interpreter(parts[2].strip(), parts[0], parts[1] == "1"))
            if rank == (False, 0):
                break
    if not best:
        raise SetupError(f"Python {' or '.join(PYTHONS)} is needed and not found; install it (apt-get install python3.11)")
    return best[min(best)]
