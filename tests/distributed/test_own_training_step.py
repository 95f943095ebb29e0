"""A network of the user's on two ranks, which have its text from the driver alone."""

import json
from functools import partial

import pytest

from pipelines.config import loader
from pipelines.launch import user_inputs
from pipelines.launch.train_function import work
from pipelines.launch.workers import barrier
from pipelines.launch.workers.barrier import RankError

pytestmark = pytest.mark.timeout(180)

SOURCE = """
import keras
import tensorflow as tf
from keras import layers

class Stepping(keras.Model):
    def train_step(self, data):
        images, labels = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(images, labels, self(images, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}

def build(spec, outputs):
    inputs = keras.Input(spec.shape)
    features = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    features = layers.Dense(16, activation="relu")(features)
    return Stepping(inputs, layers.Dense(outputs, activation="softmax", dtype="float32")(features))

def rare(labels, given):
    return tf.cast(tf.equal(labels, 3), tf.float32)

class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = True

class Failing(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise RuntimeError("no")
"""


def train(spark, table, folder, fork_server, *settings):
    """Results and metrics of each rank and epoch. The file is gone when the ranks start."""
    file = folder / "mine.py"
    file.write_text(SOURCE)
    config = loader.load(
        None,
        [
            f"model.name={file}:build",
            f"training.metrics=[{file}:rare]",
            "training.epochs=2",
            "training.precision=float32",
            "training.batch_size_per_worker=16",
            "launch.workers=2",
            "launch.threads_per_worker=1",
            *(setting.format(file=file) for setting in settings),
        ],
    )
    function = partial(work, code=user_inputs.check(config).code)
    file.unlink()
    results = barrier.start(
        spark, function, (config, table, str(folder)), launch=config.launch, work_dir=folder, fork_server=fork_server
    ).results()
    lines = [(folder / "spool" / f"rank-{rank}.jsonl").read_text().splitlines() for rank in range(2)]
    events = [[json.loads(line) for line in of_rank] for of_rank in lines]
    return results, [[event["values"]["metrics"] for event in of_rank if event["kind"] == "epoch"] for of_rank in events]


def test_a_training_step_of_ones_own_gets_averaged_gradients_and_its_metrics_are_over_the_rows_of_all_ranks(
    spark, table, fork_server, tmp_path
):
    (first, second), (epochs, _) = train(spark, table, tmp_path, fork_server)
    assert first.weights_sha256 == second.weights_sha256
    assert epochs[-1]["validation/loss"] < epochs[0]["validation/loss"]
    rows = table.manifest.splits["validation"].rows_per_label
    assert epochs[0]["validation/rare"] == pytest.approx(rows[3] / sum(rows), rel=1e-6)
    assert first.test == second.test
    assert list((tmp_path / "model/code").glob("mine_*.py"))


def test_a_callback_on_rank_0_ends_the_training_on_all_ranks(spark, table, fork_server, tmp_path):
    results, epochs = train(spark, table, tmp_path, fork_server, "training.callbacks=[{file}:Stop]")
    assert [result.epochs for result in results] == [1, 1]
    assert [len(of_rank) for of_rank in epochs] == [1, 1]


def test_an_error_of_the_users_code_on_a_rank_is_reported_by_its_line_and_shown_with_its_traceback(
    spark, table, fork_server, tmp_path
):
    with pytest.raises(RankError) as error:
        train(spark, table, tmp_path, fork_server, "training.callbacks=[{file}:Failing]")
    assert str(error.value) == f"{tmp_path}/mine.py line 29, in on_epoch_end: RuntimeError: no"
    assert 'raise RuntimeError("no")' in error.value.details
    assert not error.value.lost
