"""What an audit rests on: exactly the locked files are installed, and they fit together. The audit itself: docs/security.md."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / f"conf/constraints/{name}.lock" for name in (os.environ.get("CONVOY_RUNTIME") or "local", "horovod")]


def locked():
    """Requirement and number of hashes of every block of the lock files."""
    for lock in LOCKS:
        for block in re.split(r"^(?=\S)", lock.read_text(), flags=re.M):
            head = block.partition("\n")[0].rstrip(" \\")
            if head and not head.startswith("#"):
                yield Requirement(head), block.count("--hash=sha256:")


def test_every_locked_package_is_pinned_to_one_version_and_its_files_to_their_hashes():
    blocks = list(locked())
    assert len(blocks) > 100
    for requirement, hashes in blocks:
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert requirement.url is None
        assert hashes >= 1, requirement


def installed():
    """Version by name, without what setuptools brings inside itself, which it puts on the path once it is imported."""
    return {
        canonicalize_name(distribution.metadata["Name"]): distribution.version
        for distribution in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    }


def test_what_is_installed_is_what_is_locked_and_nothing_else():
    wanted = {
        canonicalize_name(requirement.name): next(iter(requirement.specifier)).version
        for requirement, _ in locked()
        if requirement.marker is None or requirement.marker.evaluate()
    }
    found = installed()
    # pip comes with the environment; convoy is this project.
    for own in ("pip", "convoy"):
        found.pop(own, None)
    assert found == {name: version for name, version in wanted.items() if name != "pip"}


def test_the_list_for_an_audit_names_every_package():
    command = [str(Path(sys.executable).parent / "uv"), "pip", "freeze", "--exclude-editable", "--python", sys.executable]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    wanted = {f"{name}=={version}" for name, version in installed().items() if name not in ("pip", "convoy", "horovod")}
    assert wanted <= set(listed)
    assert any(line.startswith("horovod") for line in listed)


@pytest.mark.timeout(120)
def test_the_installed_packages_fit_together():
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout


def test_locks_name_no_index():
    for lock in LOCKS:
        assert not re.search(r"https?://|--(extra-)?index-url", lock.read_text())
