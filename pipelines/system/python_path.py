"""PYTHONPATH beside the environment's own packages. Written for Python 3.8, as `pipelines.system.surroundings`."""

from __future__ import annotations

import contextlib
import os
import sys
import zipfile
from typing import Iterable

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def without_doubles(entries: Iterable[str], packages: str) -> tuple[list[str], list[str]]:
    """Entries of PYTHONPATH without those that would replace a package of the environment, with a line on each of these."""
    own = _modules(packages) | {"pipelines"} | set(getattr(sys, "stdlib_module_names", ()))
    kept, notes = [], []
    for entry in filter(None, entries):
        # Python's own path may be on it, as in what Spark's tasks start.
        inside = any(_same(entry, folder) for folder in (_ROOT, packages))
        doubles = set() if inside else _modules(entry) & own
        if doubles:
            names = ", ".join(sorted(doubles)[:3]) + (", ..." if len(doubles) > 3 else "")
            notes.append(f"PYTHONPATH: {entry} is left out, because it would replace {names} of Convoy's environment")
        else:
            kept.append(entry)
    return kept, notes


def _same(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False


def _modules(folder: str) -> set[str]:
    """Names of the modules and packages in a folder or archive. A folder without `__init__.py` replaces nothing."""
    try:
        if os.path.isfile(folder):
            with zipfile.ZipFile(folder) as archive:
                paths = [name.split("/") for name in archive.namelist()]
            return {path[0].partition(".")[0] for path in paths if path[1:] in ([], ["__init__.py"])}
        with os.scandir(folder) as found:
            return {
                entry.name.partition(".")[0]
                for entry in found
                if entry.name.endswith((".py", ".so")) or os.path.isfile(os.path.join(entry.path, "__init__.py"))
            }
    except (OSError, zipfile.BadZipFile):
        return set()
