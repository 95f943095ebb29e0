"""Installs the browser that the end-to-end tests need."""

from __future__ import annotations

import shutil
from typing import Sequence

from tools.setup.clone import Clone, SetupError, say
from tools.setup.steps import Steps, exclusive


def install_browser(clone: Clone, pytest_arguments: Sequence[str]) -> None:
    """Install Chromium if the tests that pytest will run need it and it is missing. Prints a line if that fails."""
    if not looks_at_pages(pytest_arguments) or (shutil.which("chromium") and shutil.which("chromedriver")):
        return
    try:
        with exclusive(clone.setup_lock, "another set-up of this clone is running; waiting for it") as lock:
            Steps(clone, lock).install_system_packages(["chromium", "chromium-driver"], "tests look at the page of a run")
    except SetupError as error:
        # The tests that need it will fail and say why; the others can run.
        say(error)


def looks_at_pages(pytest_arguments: Sequence[str]) -> bool:
    """Whether pytest runs the end-to-end tests with these options."""
    text = " ".join(pytest_arguments)
    selects = any(part in text for part in ("tests/", "-m ", "-m=", "-k ", "--quick"))
    return not selects or ("e2e" in text and "not e2e" not in text)
