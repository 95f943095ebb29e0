"""What a cluster gets when it installs Convoy: `pipelines`, and no replacement for a package of its runtime."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.databricks.wheel import build
from tools.setup.clone import PYTHONS

ROOT = Path(__file__).parents[2]
FACTS = sorted((ROOT / "conf/constraints").glob("dbr-*.txt"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


def facts(file):
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def test_the_wheel_is_for_any_platform_and_holds_every_module_of_pipelines_and_nothing_else(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {str(path.relative_to(ROOT)) for path in (ROOT / "pipelines").rglob("*.py")} | {"pipelines/py.typed"}
    assert any(name.endswith("LICENSE") for name in names)


def test_the_wheel_requires_nothing_that_the_runtime_lacks(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    message = Parser().parsestr(archive.read(metadata).decode())
    hard = [Requirement(line) for line in message.get_all("Requires-Dist") if "extra ==" not in line]
    assert [requirement.name for requirement in hard] == ["pyyaml"]
    for file in FACTS:
        (version,) = [specifier.version for specifier in facts(file)["pyyaml"].specifier]
        assert all(requirement.specifier.contains(version) for requirement in hard)


def test_it_says_its_licence_and_the_pythons_that_the_environments_are_made_for(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    message = Parser().parsestr(archive.read(metadata).decode())
    assert (message.get("License-Expression") or message["License"]) == "Apache-2.0"
    assert message["Requires-Python"] == f">={PYTHONS[-1]}"


def test_the_package_is_imported_in_a_blink():
    code = "import time; t = time.perf_counter(); import pipelines; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout for _ in range(3)]
    assert min(map(float, runs)) < 0.3


@pytest.mark.parametrize("file", FACTS, ids=lambda file: file.stem)
def test_the_facts_about_a_runtime_are_exact_and_the_lock_of_its_test_environment_is_made_of_them(file):
    assert re.search(r"^# Sources?: .*https://docs\.databricks\.com/", file.read_text(), re.M)
    assert re.search(r"^# Python 3\.\d+, Java \d+, Scala 2\.1[23]\.", file.read_text(), re.M)
    lock = file.with_suffix(".lock").read_text()
    pinned = facts(file)
    for name, requirement in pinned.items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        locked = re.search(rf"^{re.escape(name)}==([^ ;]+)", lock, re.M)
        # tf-keras is present but unused; Horovod has its own lock; MLflow 2.13 is a single wheel.
        assert locked is None or locked.group(1) == specifier.version, name
    # 19 ML has no TensorFlow of its own, and none after 15.4 has a Petastorm.
    own = {"tensorflow", "keras", "petastorm"} & set(pinned)
    for name in (*sorted(own), "mlflow", "numpy", "pandas", "pyarrow", "pyspark"):
        assert f"\n{name}=={next(iter(pinned[name].specifier)).version} " in lock, name
    assert all(f"\n{name}==" in lock for name in ("tensorflow", "keras", "petastorm"))
