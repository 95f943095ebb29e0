"""Every test carries the name of its folder as a marker: `./convoy test -m unit`."""

import os
from pathlib import Path
from typing import Any

import pytest

TIERS = ("unit", "spark", "training", "distributed", "e2e")
# Those that start ranks and whole jobs, and count the processes of the machine, must not run beside each other.
STARTING_PROCESSES = ("distributed", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(tests).parts[0]
        assert tier in TIERS, f"{item.path} lies in no tier"
        item.add_marker(tier)
    # The quick tiers first: what they find need not wait for processes.
    items.sort(key=lambda item: TIERS.index(item.path.relative_to(tests).parts[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2`: a lane for the tests that start processes, and one for all others."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        # What `--dist loadgroup` is for; of pytest-xdist 3.8 it does nothing under pytest 9.2.
        def _split_scope(self, nodeid: str) -> str:
            return "processes" if nodeid.split("/")[1] in STARTING_PROCESSES else "computing"

    return Lanes(config, log)


@pytest.fixture(scope="module", autouse=True)
def _own_tracking_server():
    """MLflow writes where it was told to track into the environment, where the jobs of other modules would find it."""
    before = {name: value for name, value in os.environ.items() if "MLFLOW_" in name}
    yield
    for name in [name for name in os.environ if "MLFLOW_" in name]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def spark():
    """Two task slots on loopback. One session for all tests: a second JVM would cost seconds."""
    from pipelines.launch.session import open_session

    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    os.environ["PYSPARK_SUBMIT_ARGS"] = "--master local[2] --conf spark.ui.enabled=false pyspark-shell"
    # Spark's Python workers must find the functions that tests send; the JVM passes on the path it was started with.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with open_session("convoy-tests") as session:
        yield session
