import pytest
from support.synthetic import write_table

from pipelines.launch.workers import spawn


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 640, "validation": 101, "test": 103})


@pytest.fixture(scope="session")
def fork_server():
    """A fork server as in a sweep on one machine."""
    with spawn.fork_server("anything") as address:
        yield address
