"""Extreme values that the rules of the settings allow, in a training: it ends, or one line says why not."""

import math

import pytest

from pipelines.config import loader
from pipelines.errors import DataError, TrainingError
from pipelines.track.rundir.events import SpoolWriter
from pipelines.train.worker import train

pytestmark = [pytest.mark.usefixtures("horovod"), pytest.mark.timeout(120)]

SMALL = "model.name=convnet", "training.epochs=1", "training.batch_size_per_worker=64", "training.precision=float32"
_TINY = 5e-324
_AUGMENTATION = {"shift": 0.5, "rotation": 180, "scale": 0.5, "shear": 1, "elastic": 0.2}
LOW = [
    *("seed=0", "base_learning_rate=1.0e-30", "schedule=step", "step_epochs=1.0e-6", "step_factor=1.0e-6"),
    *("clip_norm=1.0e-6", f"average_decay={_TINY}", f"label_smoothing={_TINY}", f"warmup_epochs={_TINY}"),
    *("optimizer=adamw", f"weight_decay={_TINY}", "steps_per_execution=1000000"),
    *(f"augment_{name}={_TINY}" for name in _AUGMENTATION),
]
HIGH = [
    *("seed=4294967295", "optimizer=sgd", "momentum=0.9999", "schedule=cosine", "warmup_epochs=1.0e+6", "step_epochs=1.0e+6"),
    *("clip_norm=1.0e+9", "average_decay=0.999999", "label_smoothing=0.999999", "learning_rate_batch=2147483647"),
    *("accumulation_steps=64", "early_stopping_patience=1000000"),
    *(f"augment_{name}={largest}" for name, largest in _AUGMENTATION.items()),
]
DIVERGING = ["base_learning_rate=1.0e+30", "learning_rate_batch=1", "optimizer=sgd", "weight_decay=1.0e+9"]


def trained(table, folder, *settings):
    config = loader.load(None, [*SMALL, *(f"training.{setting}" for setting in settings), "stream.memory_limit_mb=0"])
    return train(config, table, SpoolWriter(folder, 0))[1]


@pytest.mark.parametrize("settings", [LOW, HIGH], ids=["low", "high"])
def test_a_training_with_extreme_settings_ends(table, tmp_path, settings):
    assert math.isfinite(trained(table, tmp_path, *settings).test.loss)


def test_a_training_that_diverges_at_once_says_so_in_one_line(table, tmp_path):
    with pytest.raises(TrainingError, match=r"^the loss is not finite in epoch 1, [^\n]*$"):
        trained(table, tmp_path, *DIVERGING)


def test_a_shuffle_buffer_that_no_machine_has_room_for_is_one_line(table, tmp_path):
    config = loader.load(None, [*SMALL, "stream.memory_limit_mb=0", "stream.shuffle_buffer_rows=2147483647"])
    with pytest.raises(DataError, match=r"^stream\.shuffle_buffer_rows=2147483647: .* are 309\.2 GB, more than this machine has"):
        train(config, table, SpoolWriter(tmp_path, 0))
