"""The network that docs/training.md shows, as a user would add it."""

import re
from pathlib import Path

import keras
import pytest
from support.synthetic import images_and_labels

from pipelines.data.table.schema import DataSpec
from pipelines.models import registry

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()


@pytest.fixture
def strided(tmp_path, monkeypatch):
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "strided.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.NETWORKS, "strided", "strided")
    return source


def test_it_is_built_by_its_name_and_has_as_many_parameters_as_it_says(strided):
    network = registry.build("strided", DataSpec(shape=(28, 28, 1), dtype="uint8", value_range=(0.0, 255.0)), 10)
    assert f"{network.count_params():,} parameters for 28 x 28 x 1 and ten classes" in strided


def test_it_learns(strided):
    keras.utils.set_random_seed(1)
    network = registry.build("strided", DataSpec(shape=(16, 16, 1), dtype="uint8", value_range=(0.0, 255.0)), 4)
    network.compile(optimizer=keras.optimizers.Adam(0.003), loss="sparse_categorical_crossentropy", jit_compile=False)
    images, labels = images_and_labels(256, (16, 16, 1))
    before = network.evaluate(images, labels, verbose=0)
    network.fit(images, labels, batch_size=32, epochs=4, verbose=0)
    assert network.evaluate(images, labels, verbose=0) < before / 2
