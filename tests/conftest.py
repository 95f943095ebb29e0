"""Every test carries the name of its folder as a marker: `./convoy test -m unit`."""

import os
from pathlib import Path
from typing import Any

import pytest
from support import durations

TIERS = ("unit", "spark", "training", "distributed", "e2e")
# The quick tier first: what it finds need not wait for processes. The longest files next, so that two processes end together.
ORDER = ("unit", "e2e", "distributed", "training", "spark")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="the unit tests and a small training: what to run after each change")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(tests).parts[0]
        assert tier in TIERS, f"{item.path} lies in no tier"
        item.add_marker(tier)
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(tests).parts[0]))
    if config.getoption("--quick"):
        left_out = [item for item in items if not _is_quick(item)]
        items[:] = [item for item in items if _is_quick(item)]
        config.hook.pytest_deselected(items=left_out)


def _is_quick(item: pytest.Item) -> bool:
    return item.get_closest_marker("quick") is not None or (
        item.get_closest_marker("unit") is not None and item.get_closest_marker("slow") is None
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = durations.summary(report for reports in terminalreporter.stats.values() for report in reports)
    if lines:
        terminalreporter.section("time")
        terminalreporter.write("\n".join(lines) + "\n")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 3`: three processes, each of which takes the next file. Fixtures of a module are made once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


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
