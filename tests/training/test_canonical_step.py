"""The step over canonical shards, and networks that it refuses. One worker, in this process."""

import json

import numpy as np
import pytest

from pipelines.config import loader
from pipelines.errors import ConfigError
from pipelines.track.rundir.events import SpoolWriter
from pipelines.train.worker import train

pytestmark = pytest.mark.usefixtures("horovod")

MINE = """
import keras
import tensorflow as tf
from keras import layers


class Noise(layers.Layer):
    def __init__(self, kind, **settings):
        super().__init__(**settings)
        self.kind = kind
        self.generator = keras.random.SeedGenerator(1)
        self.others = tf.random.Generator.from_seed(1) if kind == "generator" else None

    def call(self, inputs, training=False):
        if not training:
            return inputs
        shape = keras.ops.shape(inputs)
        return inputs + 0.1 * {
            "seeded": lambda: keras.random.normal(shape, seed=self.generator),
            "TensorFlow": lambda: tf.random.normal(shape),
            "within": lambda: tf.cond(tf.reduce_sum(inputs) > 0, lambda: tf.random.normal(shape), lambda: tf.zeros(shape)),
            "generator": lambda: self.others.normal(shape) if self.others else 0.0,
            "global": lambda: keras.random.normal(shape),
        }[self.kind]()

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


class Stepping(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def build(spec, outputs, kind="seeded", model=keras.Model):
    inputs = keras.Input(spec.shape)
    features = layers.GaussianNoise(0.1)(layers.Dropout(0.1)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs))))
    features = Noise(kind, name="noise")(features)
    return model(inputs, layers.Dense(outputs, activation="softmax", name="head")(features))


def stepping(spec, outputs):
    return build(spec, outputs, model=Stepping)
"""


def trained(table, folder, *settings):
    """Metrics of each epoch."""
    base = ["training.epochs=2", "training.precision=float32", "model.name=mlp"]
    spool = SpoolWriter(folder, 0)
    try:
        train(loader.load(None, [*base, *settings]), table, spool)
    finally:
        spool.close()
    events = [json.loads(line) for line in (folder / "rank-0.jsonl").read_text().splitlines()]
    plan = next(event["values"] for event in events if event["kind"] == "plan")
    return plan, [event["values"]["metrics"] for event in events if event["kind"] == "epoch"]


def test_shards_are_workers_in_batch_and_learning_rate(table, tmp_path):
    plan, epochs = trained(table, tmp_path, "training.canonical_shards=4", "training.batch_size_per_worker=16")
    assert (plan["workers"], plan["batch_size_per_worker"], plan["steps"]) == (1, 64, 10)
    assert plan["learning_rate"] == pytest.approx(0.004)
    assert epochs[-1]["train/loss"] < epochs[0]["train/loss"]


def test_four_shards_of_the_same_rows_have_the_gradient_of_one_batch(table, tmp_path):
    # With one step per epoch, a batch has all rows, whatever their order.
    losses = []
    for shards in (1, 4):
        batch = f"training.batch_size_per_worker={640 // shards}"
        settings = (f"training.canonical_shards={shards}", batch, "training.learning_rate_scaling=none", "training.epochs=6")
        _, epochs = trained(table, tmp_path / str(shards), *settings, "training.clip_norm=1")
        losses.append([metrics[name] for metrics in epochs for name in ("train/loss", "validation/loss", "train/accuracy")])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][0] > 1.1 * losses[0][-3]


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return f"model.name={tmp_path / 'mine.py'}"


def test_random_layers_of_keras_and_those_with_a_seed_generator_are_trained(table, tmp_path, mine):
    _, epochs = trained(table, tmp_path, "training.canonical_shards=2", f"{mine}:build")
    assert len(epochs) == 2


@pytest.mark.parametrize("kind", ["TensorFlow", "within", "generator", "global"])
def test_a_layer_with_other_random_numbers_is_named(table, tmp_path, mine, kind):
    settings = (f"{mine}:build", f"model.arguments={{kind: {kind}}}")
    with pytest.raises(
        ConfigError, match=r"^training\.canonical_shards=2: layer noise draws random .*; give it a keras.random.SeedGen"
    ) as caught:
        trained(table, tmp_path, "training.canonical_shards=2", *settings)
    assert "\n" not in str(caught.value)


def test_a_training_step_of_its_own_is_refused(table, tmp_path, mine):
    with pytest.raises(ConfigError, match=r"^training\.canonical_shards=2: must be 0, model\.name=\S+ has its own train_step"):
        trained(table, tmp_path, "training.canonical_shards=2", f"{mine}:stepping")


def test_more_shards_than_rows_are_refused(table, tmp_path):
    with pytest.raises(ConfigError, match=r"^training\.canonical_shards=1000: must be at most 640, because the table has 640"):
        trained(table, tmp_path, "training.canonical_shards=1000")
