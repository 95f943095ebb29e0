"""Convoy's own wheel, built from a checkout."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.errors import LaunchError

_SOURCES = ("pyproject.toml", "README.md", "LICENSE")


def build(home: Path, folder: Path) -> Path:
    """Build the wheel of the checkout at `home` into `folder`, without a network.

    Raises:
        LaunchError: it could not be built.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # A build in place would leave a folder behind that the next wheel would take modules from.
        for name in _SOURCES:
            shutil.copy(home / name, scratch)
        shutil.copytree(home / "pipelines", Path(scratch) / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", *options, scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("convoy-*.whl"))
    if done.returncode != 0 or not found:
        said = (done.stderr or done.stdout).strip().splitlines() or ["pip said nothing"]
        raise LaunchError(f"Convoy's wheel could not be built ({said[-1].strip()}); run ./convoy setup")
    return found[-1]
