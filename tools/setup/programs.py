"""Installs the programs that only tests need: a browser, and shells."""

from __future__ import annotations

import shutil
from typing import Sequence

from tools.setup.clone import Clone, SetupError, say
from tools.setup.steps import Steps, exclusive

# By program: its Debian package.
_BROWSER = {"chromium": "chromium", "chromedriver": "chromium-driver"}
_SHELLS = {"zsh": "zsh", "fish": "fish"}


def install_test_programs(clone: Clone, pytest_arguments: Sequence[str]) -> None:
    """Install what the tests that pytest will run need and is missing. Prints a line if that fails."""
    needed = {**_SHELLS, **_BROWSER} if looks_at_pages(pytest_arguments) else _SHELLS
    missing = [package for program, package in needed.items() if not shutil.which(program)]
    if not missing:
        return
    try:
        with exclusive(clone.setup_lock, "another set-up of this clone is running; waiting for it") as lock:
            Steps(clone, lock).install_system_packages(missing, "tests type into shells and look at the page of a run")
    except SetupError as error:
        # The tests that need it will fail and say why; the others can run.
        say(error)


def looks_at_pages(pytest_arguments: Sequence[str]) -> bool:
    """Whether pytest runs the end-to-end tests with these options."""
    text = " ".join(pytest_arguments)
    selects = any(part in text for part in ("tests/", "-m ", "-m=", "-k ", "--quick"))
    return not selects or ("e2e" in text and "not e2e" not in text)
