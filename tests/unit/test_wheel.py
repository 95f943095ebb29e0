"""What a cluster gets when it installs Convoy: `pipelines`, and no replacement for a package of its runtime."""

import re
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.databricks.wheel import build

ROOT = Path(__file__).parents[2]
FACTS = ROOT / "conf/constraints/dbr-15.4-ml.txt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


def facts():
    lines = [line for line in FACTS.read_text().splitlines() if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def test_the_wheel_is_for_any_platform_and_holds_every_module_of_pipelines_and_nothing_else(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {str(path.relative_to(ROOT)) for path in (ROOT / "pipelines").rglob("*.py")}


def test_the_wheel_requires_nothing_that_the_runtime_lacks(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    message = Parser().parsestr(archive.read(metadata).decode())
    hard = [Requirement(line) for line in message.get_all("Requires-Dist") if "extra ==" not in line]
    assert [requirement.name for requirement in hard] == ["pyyaml"]
    (version,) = [specifier.version for specifier in facts()["pyyaml"].specifier]
    assert all(requirement.specifier.contains(version) for requirement in hard)


def test_the_runtime_facts_are_exact_versions_and_the_lock_of_its_test_environment_matches_them():
    lock = (ROOT / "conf/constraints/dbr-15.4-ml.lock").read_text()
    for name, requirement in facts().items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        locked = re.search(rf"^{re.escape(name)}==([^ ;]+)", lock, re.M)
        # tf-keras is present but unused; Horovod has its own lock; MLflow 2.13 is a single wheel.
        assert locked is None or locked.group(1) == specifier.version, name
    for name in ("tensorflow", "keras", "petastorm", "mlflow", "numpy", "pandas", "pyarrow", "pyspark"):
        assert f"\n{name}=={next(iter(facts()[name].specifier)).version} " in lock, name
