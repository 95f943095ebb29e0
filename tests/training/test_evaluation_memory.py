"""The rows of a batch of an evaluation follow from the memory that their activations take."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from support.synthetic import write_table

from pipelines.data.table.schema import DataSpec
from pipelines.models import registry
from pipelines.models.memory import EVALUATION_BYTES, bytes_per_row, evaluation_rows
from pipelines.score.classifier import Classifier
from pipelines.score.model_info import ModelInfo
from pipelines.train.test_time_augmentation import average_over_views

pytestmark = pytest.mark.timeout(180)
SCALE = (Path(__file__).parents[2] / "docs/scale.md").read_text()
SHAPES = {"28 x 28 grey": (28, 28, 1), "64 x 64 colour": (64, 64, 3), "224 x 224 colour": (224, 224, 3)}
# Evaluates random rows and prints by how many bytes the process grew at most.
MEASURE = """
import resource, sys
import horovod.tensorflow as hvd
import numpy as np
from pathlib import Path
from pipelines.data.table import schema
from pipelines.models import registry
from pipelines.train.evaluate import Evaluator
from pipelines.train.targets import TargetRules
from pipelines.score.classifier import Classifier
from pipelines.score.model_info import ModelInfo
from pipelines.train.test_time_augmentation import average_over_views
hvd.init()
manifest = schema.read_manifest(Path(sys.argv[2]))
image = manifest.spec
model = average_over_views(registry.build(sys.argv[1], image, 10), image, 9)
images, labels = np.zeros((200, 64, 64, 3), np.uint8), np.zeros(200, np.int32)
evaluator = Evaluator(model, TargetRules(manifest, "sparse_categorical_crossentropy"))
batches = [(images[start : start + evaluator.batch_size], labels[start : start + evaluator.batch_size])
           for start in range(0, 200, evaluator.batch_size)]
# TensorFlow's own memory.
evaluator.score([(images[:1], labels[:1])])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert evaluator.score(batches).rows == 200
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def image_of(shape):
    return DataSpec(shape=shape, dtype="uint8", value_range=(0.0, 255.0))


def test_the_documented_rows_at_once_are_those_of_the_code():
    rows = re.findall(r"^\| (\d+ x \d+ \w+) \| (\d) \| ([\d.]+) MB \| ([\d,]+) \|$", SCALE, re.MULTILINE)
    assert len(rows) == 5
    for name, views, megabytes, at_once in rows:
        image = image_of(SHAPES[name])
        model = average_over_views(registry.build("convnet_dropout", image, 10), image, int(views))
        values = image.num_values
        assert f"{bytes_per_row(model, values) / 1e6:.1f}" == megabytes
        assert f"{evaluation_rows(model, values):,}" == at_once


@pytest.mark.parametrize("name", ["convnet_dropout", "resnet"])
def test_an_evaluation_of_many_views_takes_about_the_memory_that_is_counted(name, tmp_path):
    write_table(tmp_path, {"train": 1}, shape=(64, 64, 3), classes=10)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name, str(tmp_path)], capture_output=True, text=True, timeout=150, check=True
    )
    # Twice: the library pads and reorders, and the allocator keeps some of what was freed.
    assert int(done.stdout.split()[-1]) < 2 * EVALUATION_BYTES


def test_a_single_row_is_the_least_and_a_model_without_layers_is_judged_by_its_input():
    huge = keras.Sequential([keras.Input((4000, 4000, 3)), keras.layers.Conv2D(64, 3)])
    assert evaluation_rows(huge, 48_000_000) == 1
    assert evaluation_rows(None, 28 * 28) == 1000
    assert 5 <= evaluation_rows(object(), 224 * 224 * 3) <= 50


def test_predict_and_score_take_no_more_rows_at_once_than_the_test_of_the_run(tmp_path):
    image = image_of((64, 64, 3))
    model = average_over_views(registry.build("convnet_dropout", image, 10), image, 9)
    mlflow.tensorflow.save_model(model, str(tmp_path / "model"), pip_requirements=["mlflow"])
    info = ModelInfo(
        **{name: "" for name in ("uri", "version", "run_id", "dataset", "table_digest")},
        path=tmp_path / "model",
        image_shape=image.shape,
        num_classes=10,
        labels=tuple(range(10)),
        class_names=tuple("0123456789"),
        value_range=image.value_range,
    )
    classifier = Classifier(info)
    taken, predict = [], classifier._predict_on_batch
    classifier._predict_on_batch = lambda images: taken.append(len(images)) or predict(images)
    images = np.random.default_rng(1).integers(0, 256, (60, *image.shape), np.uint8)
    probabilities = classifier.probabilities(images)
    assert taken == [27, 27, 6]
    np.testing.assert_allclose(probabilities, model(images.astype(np.float32)).numpy(), atol=1e-5)
