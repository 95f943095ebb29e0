"""Whether an environment still has the files that were installed into it."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Collection, NamedTuple

from tools.setup.clone import Clone


class Damage(NamedTuple):
    """The first file of a package that is missing or has another size."""

    file: str
    """Relative to the environment's site-packages."""
    is_changed: bool
    """It is there, with another size."""


def contents(clone: Clone) -> list[str]:
    """The entries of site-packages and bin, which a listing checks in a millisecond. Versions of packages do not matter."""
    found = {"pyvenv.cfg"} if (clone.venv / "pyvenv.cfg").exists() else set()
    for folder in (clone.venv / "bin", *clone.venv.glob("lib/python3.*/site-packages")):
        for name in os.listdir(folder):
            if name != "__pycache__":
                found.add(f"{folder.name}/{re.sub(r'-[^-]*[.]dist-info$', '.dist-info', name)}")
    return sorted(found)


def damaged(clone: Clone, known: Collection[str] = ()) -> dict[str, Damage]:
    """The packages with a missing or changed file, by normalized name. Compares all files with the packages' records, by size.

    Args:
        clone: the clone.
        known: files that were like that when they were installed, from `deviations`.
    """
    found: dict[str, Damage] = {}
    for name, damage in _deviations(clone):
        if damage.file not in known:
            found.setdefault(name, damage)
    return dict(sorted(found.items()))


def deviations(clone: Clone) -> list[str]:
    """Files that are not as a package's record says. Some packages are published with a record that is wrong."""
    return sorted({damage.file for _, damage in _deviations(clone)})


def _deviations(clone: Clone) -> list[tuple[str, Damage]]:
    found = []
    intact: set[str] = set()
    for record in sorted(clone.venv.glob("lib/python3.*/site-packages/*.dist-info/RECORD")):
        name = re.sub(r"[-_.]+", "-", record.parent.name.partition("-")[0]).lower()
        with record.open(newline="", encoding="utf-8") as rows:
            for row in filter(None, csv.reader(rows)):
                damage = _damage(record.parents[1], row)
                if damage is None:
                    intact.add(row[0])
                else:
                    found.append((name, damage))
    # Of packages that bring the same file, the last to be installed wins.
    return [(name, damage) for name, damage in found if damage.file not in intact]


def _damage(site_packages: Path, row: list[str]) -> Damage | None:
    file = row[0]
    # Bytecode is written anew where it is missing.
    if file.endswith(".pyc"):
        return None
    try:
        size = os.stat(os.path.join(str(site_packages), file)).st_size
    except OSError:
        return Damage(file, is_changed=False)
    # Programs are written for this environment, and Spark's `spark-submit` by the set-up.
    expected = row[2] if len(row) > 2 and not file.startswith("..") else ""
    return Damage(file, is_changed=True) if expected.isdigit() and int(expected) != size else None
