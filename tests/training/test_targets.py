"""Numbers as targets, and weights of classes and rows, in this process: Horovod with one rank."""

import mlflow
import numpy as np
import pytest
from sklearn.metrics import r2_score
from support.equal_to_keras import by_keras
from support.synthetic import features_and_numbers, row_weights, write_features_table

from pipelines import tasks
from pipelines.config import loader
from pipelines.score import model_info
from pipelines.track.mlflow import logged_model
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.events import SpoolReader, SpoolWriter
from pipelines.train.worker import train

pytestmark = pytest.mark.usefixtures("horovod")

ROWS = {"train": 640, "validation": 101, "test": 103}
SETTINGS = ("model.name=mlp", "training.batch_size_per_worker=32", "training.precision=float32")


def trained(table, folder, *settings):
    """Network, result, and the metrics of each epoch."""
    config = loader.load(
        None, [*SETTINGS, f"data.task={table.manifest.spec.task}", "data.classes=3", "training.epochs=4", *settings]
    )
    spool = SpoolWriter(folder / "spool", 0)
    model, result = train(config, table, spool, folder)
    spool.close()
    events = [event.values for event in SpoolReader(folder / "spool").new_events() if event.kind == "epoch"]
    return model, result, [event.metrics for event in events]


@pytest.fixture(scope="module", params=[(1, False), (2, True)], ids=["one number", "two numbers with weights"])
def regression(request, tmp_path_factory):
    targets, weighted = request.param
    folder = tmp_path_factory.mktemp("regression")
    table = write_features_table(folder / "table", ROWS, targets=targets, weighted=weighted)
    settings = ("training.epochs=30", "training.base_learning_rate=0.01", "training.optimizer=adamw")
    return table, folder, *trained(table, folder, *settings)


def test_a_network_of_numbers_learns_and_predicts_in_source_units(regression):
    table, folder, model, result, epochs = regression
    values, numbers = features_and_numbers(103, targets=len(table.manifest.target_names), seed=2)
    weights = row_weights(103, seed=2) if table.manifest.weighted else None
    predicted = model.predict(values, verbose=0).astype(float)
    squared = np.average(((predicted - numbers) ** 2).mean(axis=1), weights=weights)
    assert list(result.test.metrics) == ["rmse", "mae", "r2"]
    assert result.test.metrics["rmse"] == pytest.approx(np.sqrt(squared), rel=1e-4)
    assert result.test.metrics["r2"] == pytest.approx(r2_score(numbers, predicted, sample_weight=weights), abs=1e-4)
    assert result.test.metrics["r2"] > 0.9
    # The loss is of standardized numbers, in which guessing the mean has 1.
    errors = (((predicted - numbers) / table.manifest.target_deviations) ** 2).mean(axis=1)
    assert result.test.loss == pytest.approx((errors * (1 if weights is None else weights)).mean(), rel=1e-3)
    kept = figure_data.load_predictions(folder)
    np.testing.assert_allclose(kept.outputs, predicted, rtol=1e-4)
    np.testing.assert_array_equal(kept.targets, numbers)
    assert len(epochs) == 30


def test_training_and_validation_report_the_same_metrics_in_the_same_units(regression):
    table, _, _, _, epochs = regression
    spread = np.sqrt(np.mean(np.square(table.manifest.target_deviations)))
    for split in ("train", "validation"):
        first, last = epochs[0], epochs[-1]
        assert 0.05 * spread < last[f"{split}/rmse"] < first[f"{split}/rmse"] < 3 * spread
        assert last[f"{split}/mae"] < last[f"{split}/rmse"]
        assert last[f"{split}/r2"] > 0.9


def test_the_logged_model_predicts_numbers_in_source_units_and_says_what_they_are(regression, tmp_path):
    table, _, model, _, _ = regression
    values, _ = features_and_numbers(5, targets=len(table.manifest.target_names), seed=9)
    logged_model.save(model, tmp_path / "model", table.manifest, values)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.predict(values), model.predict(values, verbose=0), rtol=1e-5)
    info = model_info.read(tmp_path / "model", "m")
    assert (info.task, info.target_names) == ("regression", table.manifest.target_names)
    assert info.target_deviations == pytest.approx(table.manifest.target_deviations)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_weights_and_losses_are_those_of_keras_on_the_same_rows(task, weighted, tmp_path):
    table = write_features_table(tmp_path / "table", ROWS, task=task, weighted=weighted)
    settings = ("training.class_weights=balanced",) if task == "classification" else ()
    model, _, epochs = trained(table, tmp_path, *settings, "training.epochs=2", "training.custom_kernels=false")
    expected, losses = by_keras(table, [*SETTINGS, f"data.task={task}", *settings], epochs=2)
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert [metrics["train/loss"] for metrics in epochs] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(("loss", "keras_name"), [("mae", "mean_absolute_error"), ("huber", "huber")])
def test_absolute_errors_and_huber_losses_are_those_of_keras_and_what_validation_and_test_report(loss, keras_name, tmp_path):
    table = write_features_table(tmp_path / "table", ROWS, targets=2)
    settings = (f"training.loss={loss}", "training.custom_kernels=false")
    model, result, epochs = trained(table, tmp_path, *settings, "training.epochs=2")
    expected, losses = by_keras(table, [*SETTINGS, "data.task=regression"], epochs=2, loss=keras_name)
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert [metrics["train/loss"] for metrics in epochs] == pytest.approx(losses, rel=1e-4)
    values, numbers = features_and_numbers(103, targets=2, seed=2)
    by_hand = tasks.of("regression").row_losses(
        keras_name, numbers, model.predict(values, verbose=0), table.manifest.target_deviations
    )
    assert result.test.loss == pytest.approx(by_hand.mean(), rel=1e-3)


def test_class_weights_are_in_the_training_loss_alone(tmp_path):
    table = write_features_table(tmp_path / "table", ROWS, task="classification")
    found = [trained(table, tmp_path / value, f"training.class_weights={value}") for value in ("[1, 1, 1]", "[3, 3, 3]", "none")]
    (plain, tripled, none) = ([metrics["train/loss"] for metrics in epochs] for _, _, epochs in found)
    assert plain == pytest.approx(none, rel=1e-5)
    assert tripled[0] > 2 * plain[0]
    by_hand = found[1][0].predict(features_and_numbers(103, seed=2)[0], verbose=0)
    labels = np.digitize(features_and_numbers(103, seed=2)[1][:, 0], (50, 53))
    assert found[1][1].test.loss == pytest.approx(-np.log(by_hand[np.arange(103), labels]).mean(), rel=1e-3)


def test_balanced_weights_find_more_rows_of_a_rare_class(tmp_path):
    table = write_features_table(tmp_path / "table", ROWS, task="classification")
    values, numbers = features_and_numbers(2000, seed=2)
    rare = np.digitize(numbers[:, 0], (50, 53)) == 2
    assert 10 <= rare.sum() < 200
    recall = {}
    for weights in ("none", "balanced"):
        model, _, _ = trained(table, tmp_path / weights, f"training.class_weights={weights}")
        recall[weights] = (model.predict(values, verbose=0).argmax(axis=1) == 2)[rare].mean()
    assert recall["balanced"] > recall["none"]
