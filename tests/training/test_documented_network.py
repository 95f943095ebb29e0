"""The network that docs/training.md shows, as a user would write it."""

import re
from pathlib import Path

import pytest

from pipelines.config import loader
from pipelines.data.table.schema import DataSpec
from pipelines.launch import user_inputs
from pipelines.models import registry
from pipelines.track.rundir.events import SpoolWriter
from pipelines.train.worker import train

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()


@pytest.fixture
def mine(tmp_path):
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text(source)
    return f"{tmp_path}/mine.py:build"


def test_it_takes_the_arguments_of_the_documented_command(mine):
    (arguments,) = re.findall(r"'(model\.arguments=.*?)'", PAGE)
    config = loader.load(None, [f"model.name={mine}", arguments])
    assert user_inputs.check(config).code
    network = registry.build(
        mine, DataSpec(shape=(28, 28, 1), dtype="uint8", value_range=(0.0, 255.0)), 10, config.model.arguments
    )
    assert network.get_layer("convolution").filters == 16


def test_it_learns_with_its_loss_and_is_measured_by_its_metric(mine, table, horovod, tmp_path):
    settings = [
        f"model.name={mine}",
        "training.epochs=4",
        "training.base_learning_rate=0.003",
        "training.batch_size_per_worker=32",
    ]
    spool = SpoolWriter(tmp_path, 0)
    _, result = train(loader.load(None, settings), table, spool)
    spool.close()
    assert result.test.accuracy > 0.6
    assert result.test.loss < 0.3
    assert result.test.metrics["top_3"] >= result.test.accuracy
