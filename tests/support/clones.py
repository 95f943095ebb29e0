"""What tests of the front door and of its set-up share: as much of a clone as the set-up reads."""

import json
import shutil
from pathlib import Path

from tools.setup import environment, integrity
from tools.setup.clone import Clone

ROOT = Path(__file__).parents[2]


def copy_clone(folder: Path) -> Clone:
    """As much of the repository as the set-up reads, in a folder."""
    # The front door masks what it shows with a module of the package.
    for name in ("conf/constraints", "conf/spark", "tools", "pipelines/system"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("convoy", "pyproject.toml", "pipelines/__init__.py", "pipelines/moved.py"):
        shutil.copy2(ROOT / name, folder / name)
    return Clone(folder)


def finish_set_up(clone: Clone, stamp: bool = True) -> None:
    """What a finished set-up leaves for the check; without the `stamp`, one that is about to finish."""
    java = clone.venv / "java/bin/java"
    for program in (clone.python, java):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (clone.venv / "lib/python3.11/site-packages").mkdir(parents=True, exist_ok=True)
    if not stamp:
        return
    content = {"digest": environment.digest(clone), "java_home": str(clone.venv / "java"), "contents": integrity.contents(clone)}
    clone.ready.write_text(json.dumps(content))
