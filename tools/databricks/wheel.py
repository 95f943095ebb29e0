"""Build Convoy's wheel from a checkout."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.errors import LaunchError

_SOURCES = ("pyproject.toml", "README.md", "LICENSE")


def build(home: Path, folder: Path) -> Path:
    """Build the wheel of the checkout at `home` into `folder`, without network access.

    Raises:
        LaunchError: the build failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # A build in place would leave a `build` folder behind, whose modules the next wheel would include.
        for name in _SOURCES:
            shutil.copy(home / name, scratch)
        shutil.copytree(home / "pipelines", Path(scratch) / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", *options, scratch]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("convoy-*.whl"))
    if pip.returncode != 0 or not wheels:
        output = (pip.stderr or pip.stdout).strip().splitlines() or ["no output from pip"]
        raise LaunchError(f"Convoy's wheel could not be built ({output[-1].strip()}); run ./convoy setup")
    return wheels[-1]
