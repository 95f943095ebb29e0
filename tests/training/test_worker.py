"""One worker, in this process: Horovod with one rank."""

import json
import sys
import zipfile

import mlflow
import numpy as np
import pytest
from support.synthetic import images_and_labels, write_table

from pipelines.config import TrainingConfig, loader
from pipelines.data.table.row_hashes import TrainingRows, hash_images
from pipelines.errors import ConvoyError, DataError
from pipelines.score import model_info
from pipelines.tasks.classification import Classification
from pipelines.tasks.metric import mean_over_rows
from pipelines.track.mlflow import logged_model as tracked_model
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.events import SpoolWriter
from pipelines.train.compile import make_loss
from pipelines.train.targets import TargetRules
from pipelines.train.worker import train

pytestmark = pytest.mark.usefixtures("horovod")


def trained(table, tmp_path, *settings, run_dir=None):
    config = loader.load(None, ["model.name=convnet", "training.epochs=3", "training.batch_size_per_worker=32", *settings])
    spool = SpoolWriter(tmp_path, 0)
    model, result = train(config, table, spool, run_dir)
    spool.close()
    events = [json.loads(line) for line in (tmp_path / "rank-0.jsonl").read_text().splitlines()]
    return model, result, events


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.quick), "bfloat16", "float16"])
def test_training_learns_evaluates_every_test_row_and_returns_a_float32_network(table, tmp_path, precision):
    model, result, events = trained(table, tmp_path, f"training.precision={precision}", "training.epochs=5")
    assert result.test.rows == 103
    assert result.test.accuracy > 0.9
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    epochs = [event["values"]["metrics"] for event in events if event["kind"] == "epoch"]
    assert len(epochs) == result.epochs == 5
    assert epochs[-1]["validation/loss"] < epochs[0]["validation/loss"]
    images, labels = images_and_labels(103, seed=2)
    assert np.mean(model.predict(images.astype(np.float32), verbose=0).argmax(1) == labels) == pytest.approx(result.test.accuracy)


def test_a_metric_that_is_added_is_measured_in_training_validation_and_test(table, tmp_path, monkeypatch):
    # What the network gives to the right class.
    confidence = mean_over_rows(
        "confidence",
        lambda ops, labels, given: ops.sum(ops.where(ops.arange(4) == ops.reshape(labels, (-1, 1)), given, 0), axis=-1),
        label="confidence",
    )
    monkeypatch.setattr(Classification, "metrics", (*Classification.metrics, confidence))
    model, result, events = trained(table, tmp_path, "training.precision=float32")
    epochs = [event["values"]["metrics"] for event in events if event["kind"] == "epoch"]
    assert 0 < epochs[0]["train/confidence"] < epochs[-1]["validation/confidence"] <= 1
    images, labels = images_and_labels(103, seed=2)
    expected = model.predict(images.astype(np.float32), verbose=0)[np.arange(103), labels].mean()
    assert result.test.named("test")["test/confidence"] == pytest.approx(expected, rel=1e-4)


def test_a_network_with_a_custom_loss_is_trained_with_it_and_scored_like_any_other(table, tmp_path):
    _, result, events = trained(table, tmp_path, "model.name=capsnet", "training.steps_per_execution=4")
    epochs = [event["values"]["metrics"] for event in events if event["kind"] == "epoch"]
    # Validation is scored by cross-entropy, which lengths below 0.1 of wrong classes increase; the margin loss ignores them.
    assert epochs[-1]["train/loss"] < epochs[0]["train/loss"] < 0.81
    assert epochs[-1]["validation/loss"] > 2 * epochs[-1]["train/loss"]
    assert result.test.accuracy > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_different_ones(table, tmp_path):
    hashes = [
        trained(table, tmp_path / str(run), "training.precision=float32", f"training.seed={seed}")[1].weights_sha256
        for run, seed in enumerate([0, 0, 1])
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_steps_per_execution_does_not_change_what_is_computed(table, tmp_path):
    losses = []
    for steps in (1, 10):
        _, _, events = trained(
            table, tmp_path / str(steps), "training.precision=float32", f"training.steps_per_execution={steps}"
        )
        losses.append([event["values"]["metrics"]["validation/loss"] for event in events if event["kind"] == "epoch"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.parametrize(("network", "alike"), [("convnet", True), ("convnet_batchnorm", False)])
def test_accumulation_equals_the_whole_batch_except_with_batch_normalization(table, tmp_path, network, alike):
    losses = []
    for parts in (1, 4):
        settings = ["training.precision=float32", f"training.accumulation_steps={parts}", "training.steps_per_execution=5"]
        _, _, events = trained(table, tmp_path / str(parts), f"model.name={network}", *settings, "training.epochs=2")
        losses.append([event["values"]["metrics"]["train/loss"] for event in events if event["kind"] == "epoch"])
    assert np.allclose(losses[0], losses[1], rtol=1e-3) == alike


def test_early_stopping_keeps_the_best_weights(tmp_path):
    # Labels that cannot be learned: the validation loss rises as soon as the network memorizes the training rows.
    table = write_table(tmp_path / "table", {"train": 640, "validation": 101, "test": 103}, learnable=False)
    _, result, events = trained(table, tmp_path, "training.epochs=40", "training.early_stopping_patience=2")
    losses = [event["values"]["metrics"]["validation/loss"] for event in events if event["kind"] == "epoch"]
    assert result.epochs == len(losses) < 40
    assert result.best_epoch == int(np.argmin(losses)) + 1 == result.epochs - 2


def test_without_validation_rows_training_reports_none(tmp_path):
    table = write_table(tmp_path / "t", {"train": 64, "validation": 0, "test": 8})
    _, _, events = trained(table, tmp_path, "ingest.validation_fraction=0")
    assert not [event for event in events if "validation/loss" in event["values"].get("metrics", {})]


def test_the_data_of_the_figures_are_what_the_network_saw_and_predicted(table, tmp_path):
    model, result, _ = trained(table, tmp_path, run_dir=tmp_path)
    images, labels = images_and_labels(103, seed=2)
    predictions = figure_data.load_predictions(tmp_path)
    np.testing.assert_array_equal(predictions.rows, np.arange(103))
    np.testing.assert_array_equal(predictions.labels, labels)
    np.testing.assert_allclose(predictions.probabilities, model.predict(images.astype(np.float32), verbose=0), atol=1e-5)
    assert np.mean(predictions.probabilities.argmax(1) == labels) == pytest.approx(result.test.accuracy)

    layer = figure_data.load(tmp_path, figure_data.FIRST_LAYER)
    np.testing.assert_array_equal(layer["kernels"], model.get_layer("convolution").get_weights()[0])
    assert len(layer["images"]) == len(layer["feature_maps"]) == 4
    by_hand = np.einsum("ijck,ijc->k", layer["kernels"], layer["images"][0, :4, :4] / 255)
    by_hand = np.maximum(by_hand + model.get_layer("convolution").get_weights()[1], 0)
    np.testing.assert_allclose(layer["feature_maps"][0, 0, 0], by_hand, atol=1e-4)

    examples = figure_data.load(tmp_path, figure_data.EXAMPLES)
    train_images, train_labels = images_and_labels(640, seed=0)
    for image, label in zip(examples["images"], examples["targets"], strict=True):
        assert label in train_labels[(train_images == image).all(axis=(1, 2, 3))]


def test_a_network_without_convolutions_saves_no_first_layer(table, tmp_path):
    trained(table, tmp_path, "model.name=mlp", "training.epochs=1", run_dir=tmp_path)
    assert not figure_data.has(tmp_path, figure_data.FIRST_LAYER)
    assert figure_data.has(tmp_path, figure_data.EXAMPLES)


def test_too_few_rows_for_a_batch_are_one_batch(table, tmp_path):
    settings = ("model.name=mlp", "training.epochs=2", "training.precision=float32")
    losses = []
    for batch in (640, 1000):
        folder = tmp_path / str(batch)
        folder.mkdir()
        _, result, _ = trained(table, folder, *settings, f"training.batch_size_per_worker={batch}")
        losses.append(result.test.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    with pytest.raises(DataError, match="640 training rows, too few for a batch in 1000 parts on each of 1 workers"):
        trained(table, tmp_path, "training.batch_size_per_worker=1000", "training.accumulation_steps=1000")


def test_label_smoothing_raises_the_loss_of_a_confident_prediction(tmp_path):
    rules = TargetRules(write_table(tmp_path / "t", {"train": 1}, classes=2).manifest, "")
    labels, probabilities = np.array([0, 1]), np.array([[0.99, 0.01], [0.01, 0.99]], np.float32)
    plain, smoothed = (
        float(np.mean(make_loss(TrainingConfig(label_smoothing=smoothing), rules)(labels, probabilities)))
        for smoothing in (0.0, 0.1)
    )
    assert plain == pytest.approx(-np.log(0.99), rel=1e-3)
    assert smoothed == pytest.approx(-0.95 * np.log(0.99) - 0.05 * np.log(0.01), rel=1e-3)


@pytest.mark.quick
def test_the_saved_model_predicts_the_same_and_needs_no_training_library(table, tmp_path):
    model, _, _ = trained(table, tmp_path)
    images, _ = images_and_labels(5, seed=9)
    record = TrainingRows(np.unique(hash_images(images[:3])))
    (tmp_path / "rows").write_bytes(record.to_bytes())
    tracked_model.save(model, tmp_path / "model", table.manifest, images, [images], tmp_path / "rows")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    np.testing.assert_allclose(
        loaded.predict(images.astype(np.float32)), model.predict(images.astype(np.float32), verbose=0), rtol=1e-5
    )
    # What evaluation and prediction must not guess.
    info = model_info.read(tmp_path / "model", "m")
    assert (info.reading, info.picture_form, info.table_digest) == (table.manifest.reading, "picture", table.manifest.digest)
    assert info.class_names == table.manifest.class_names
    assert info.training_rows().contain(hash_images(images)).tolist() == [True] * 3 + [False] * 2
    requirements = (tmp_path / "model" / "requirements.txt").read_text()
    assert "tensorflow" in requirements
    assert not any(name in requirements for name in ("horovod", "petastorm", "pyspark"))


@pytest.mark.parametrize("library", ["horovod", "petastorm", "pyspark"])
def test_a_saved_model_that_needs_a_training_library_is_detected(tmp_path, library):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"module": f"{library}.tensorflow"}))
    with pytest.raises(ConvoyError, match=library):
        tracked_model.check_portable(tmp_path)
    assert "horovod" in sys.modules


def test_a_smoothed_loss_takes_labels_of_any_dtype(table):
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32)
    loss = make_loss(TrainingConfig(label_smoothing=0.1), TargetRules(table.manifest, ""))
    expected = [-(0.925 * np.log(0.7) + 3 * 0.025 * np.log(0.1)), np.log(4)]
    for kind in (np.int32, np.float32):
        np.testing.assert_allclose(loss(np.array([[0], [3]], kind), probabilities), expected, rtol=1e-5)
