import pytest
from synthetic import write_table


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 640, "validation": 101, "test": 103})
