"""What each setting of the recipe does to a training of one worker, in this process."""

import horovod.tensorflow as hvd
import numpy as np
import pytest
from synthetic import write_table

from pipelines import configfile
from pipelines.spool import SpoolReader, SpoolWriter
from pipelines.train.worker import train

# Losses of the code before there were recipes. What is left out of a recipe must not change a number.
KNOWN = {
    ("model.name=convnet_dropout",): ([1.0374908, 0.1618788], [0.34624096, 0.00131848]),
    (
        "model.name=convnet_batchnorm",
        "training.optimizer=adamw",
        "training.weight_decay=0.01",
        "training.label_smoothing=0.1",
        "training.schedule=one_cycle",
    ): ([0.7073864, 0.3754463], [1.0517277, 0.4481522]),
    ("model.name=convnet", "training.optimizer=sgd", "training.momentum=0.9", "training.base_learning_rate=0.01"): (
        [0.7645232, 0.0285461],
        [0.1172161, 0.0036595],
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _horovod():
    hvd.init()
    yield
    hvd.shutdown()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 640, "validation": 101, "test": 103})


def trained(table, folder, *settings, start=None):
    config = configfile.load(
        None,
        [
            "model.name=convnet_batchnorm",
            "training.epochs=2",
            "training.batch_size_per_worker=32",
            "training.precision=float32",
            *settings,
        ],
    )
    spool = SpoolWriter(folder / "spool", 0)
    try:
        model, result = train(config, table, spool, folder, start)
    finally:
        spool.close()
    events = SpoolReader(folder / "spool").new_events()
    return model, result, [event.values["metrics"] for event in events if event.kind == "epoch"]


@pytest.mark.parametrize("settings", KNOWN, ids=["dropout", "batchnorm-adamw", "momentum"])
def test_recipes_that_use_nothing_new_train_as_they_always_did(table, tmp_path, settings):
    _, _, epochs = trained(table, tmp_path, *settings)
    for kind, known in zip(("train/loss", "validation/loss"), KNOWN[settings], strict=True):
        np.testing.assert_allclose([metrics[kind] for metrics in epochs], known, rtol=2e-3)
