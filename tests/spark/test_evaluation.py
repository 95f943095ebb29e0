"""Evaluation in Spark's workers, with models that need no TensorFlow."""

import dataclasses

import numpy as np
import pytest
from support import bandmodels
from support.synthetic import images_and_labels, write_libsvm, write_table

from pipelines.config import Config, loader
from pipelines.errors import ConfigError, DataError
from pipelines.score import model_info
from pipelines.score.evaluate import dataset, evaluation
from pipelines.score.evaluate.evaluation import evaluate
from pipelines.system.reporter import NullReporter
from pipelines.tasks.classification import Classification

ROWS = {"train": 120, "validation": 40, "test": 230}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "t", ROWS)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A good model, and one that mistakes class 2 for class 1."""
    folder = tmp_path_factory.mktemp("models")
    good, weak = bandmodels.save(folder / "good"), bandmodels.save(folder / "weak", blind=(2,))
    return model_info.read(good, str(good)), model_info.read(weak, str(weak))


def expected(split_numbers, blind=()):
    """Labels and probabilities of the rows, computed independently."""
    parts = [images_and_labels(list(ROWS.values())[number], seed=number) for number in split_numbers]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return labels, bandmodels.BandModel(blind).predict(None, images)


def test_every_row_counts_once_however_spark_partitions_the_table(spark, table, models, monkeypatch):
    labels, probabilities = expected([2])
    found = {}
    for rows_per_task in (1, 10**9):
        monkeypatch.setattr(evaluation, "_MIN_ROWS_PER_TASK", rows_per_task)
        found[rows_per_task] = evaluate(spark, models[:1], table, ["test"])
    for comparison in found.values():
        (result,) = comparison.results
        assert result.rows == 230
        assert result.metrics["accuracy"] == (probabilities.argmax(1) == labels).mean()
        assert result.loss == pytest.approx(Classification().row_losses("", labels, probabilities, ()).mean(), rel=1e-6)
        assert comparison.pairs is None


def test_predictions_over_several_splits_are_in_table_order(spark, table, models):
    labels, _ = expected([0, 1, 2])
    found = evaluate(spark, models[1:], table, ["train", "validation", "test"]).predictions
    np.testing.assert_array_equal(found.rows, np.arange(390))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.probabilities, expected([0, 1, 2], (2,))[1], rtol=1e-6)
    assert 0 < len(found.worst) <= 25
    wrong = found.probabilities[found.worst].argmax(1)
    assert (wrong != found.labels[found.worst]).all()
    images = np.concatenate([images_and_labels(rows, seed=number)[0] for number, rows in enumerate(ROWS.values())])
    np.testing.assert_array_equal(found.worst_images, images[found.rows[found.worst]])


def test_two_models_are_compared_row_by_row(spark, table, models):
    labels, good = expected([2])
    _, weak = expected([2], (2,))
    good_right, weak_right = good.argmax(1) == labels, weak.argmax(1) == labels
    pairs = evaluate(spark, models, table, ["test"]).pairs
    assert pairs.only_first == (good_right & ~weak_right).sum() > 30
    assert pairs.only_second == (~good_right & weak_right).sum()
    assert pairs.rows == 230
    assert pairs.p_value < 1e-6


def test_the_loss_equals_keras_even_for_confident_mistakes():
    probabilities = np.array([[1.0, 0.0], [0.25, 0.75]], np.float32)
    losses = Classification().row_losses("", np.array([1, 1]), probabilities, ())
    assert losses[0] == pytest.approx(-np.log(1e-7), rel=1e-5)
    assert losses[1] == pytest.approx(-np.log(0.75), rel=1e-6)


def test_classes_are_matched_by_name_whatever_their_order(spark, table, models, tmp_path):
    names = ["zero", "one", "two", "three"]
    about = bandmodels.ABOUT | {"class_names": names[::-1]}
    turned = model_info.read(bandmodels.save(tmp_path / "m", metadata=about, order=(3, 2, 1, 0)), "turned")
    named = type(table)(table.uri, dataclasses.replace(table.manifest, class_names=tuple(names)))
    comparison = evaluate(spark, [models[0], turned], named, ["test"])
    one, other = comparison.results
    assert other.loss == pytest.approx(one.loss, rel=1e-6)
    assert (one.metrics, comparison.pairs.only_first, comparison.pairs.only_second) == (other.metrics, 0, 0)
    alone = evaluate(spark, [turned], named, ["test"]).predictions
    np.testing.assert_allclose(alone.probabilities, comparison.predictions.probabilities, rtol=1e-6)


def test_rows_that_a_model_was_trained_with_are_left_out(spark, table, models, tmp_path):
    images, labels = images_and_labels(230, seed=2)
    first, second = (
        model_info.read(bandmodels.save(tmp_path / name, blind=(2,), training_rows=images[rows]), f"models:/m/{name}")
        for name, rows in (("0", slice(60)), ("1", slice(50, 100)))
    )
    comparison = evaluate(spark, [first], table, ["test"])
    right = bandmodels.BandModel((2,)).predict(None, images).argmax(1) == labels
    assert (comparison.results[0].rows, comparison.left_out) == (170, 60)
    assert comparison.results[0].metrics["accuracy"] == pytest.approx(right[60:].mean())
    assert comparison.notes == ("60 of 230 rows are left out, because model models:/m/0 was trained with them",)
    np.testing.assert_array_equal(comparison.predictions.rows, np.arange(60, 230))
    # The training rows of both count.
    comparison = evaluate(spark, [models[0], second], table, ["test"])
    assert (comparison.pairs.rows, comparison.left_out) == (180, 50)
    comparison = evaluate(spark, [first, second], table, ["test"])
    assert (comparison.pairs.rows, comparison.left_out) == (130, 100)
    assert [note[:13] for note in comparison.notes] == ["60 of 230 row", "50 of 230 row"]
    known = model_info.read(bandmodels.save(tmp_path / "all", training_rows=images), "models:/m/3")
    with pytest.raises(DataError, match=r"all rows \(230\) are rows that model models:/m/3 was trained with; name other data"):
        evaluate(spark, [known], table, ["test"])
    # The test rows of its own table were held out.
    own = dataclasses.replace(known, table_digest=table.manifest.digest)
    assert evaluate(spark, [own], table, ["test"]).results[0].rows == 230


def test_a_table_that_does_not_fit_the_model_is_refused(spark, table, models, tmp_path):
    wide = model_info.read(bandmodels.save(tmp_path / "w", shape=(12, 24, 1)), "w")
    with pytest.raises(DataError, match=r"has image shape \[12, 12, 1\].*\[12, 24, 1\]"):
        evaluate(spark, [wide], table, ["test"])
    with pytest.raises(DataError, match="has no rows in validation"):
        evaluate(spark, models[:1], write_table(tmp_path / "t", {"test": 5}), ["validation"])


def test_an_error_in_a_worker_is_one_line(spark, models, tmp_path):
    table = write_table(tmp_path / "t", {"test": 20}, shape=(6, 12, 1))
    spec = dataclasses.replace(table.manifest.spec, shape=(12, 12, 1))
    lying = dataclasses.replace(table, manifest=dataclasses.replace(table.manifest, spec=spec))
    message = r"^split=test/part-00000.parquet: a value of column image does not have the 144 bytes that the manifest says$"
    with pytest.raises(DataError, match=message):
        evaluate(spark, models[:1], lying, ["test"])


def test_a_model_that_does_not_take_images_is_refused(tmp_path):
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(str(tmp_path / "m"), python_model=bandmodels.BandModel(), pip_requirements=["mlflow"])
    with pytest.raises(ConfigError, match="its signature must have one input tensor"):
        model_info.read(tmp_path / "m", "m")


def test_all_of_a_single_file_is_evaluated_but_only_the_test_file_of_a_folder(models, tmp_path):
    for name in ("digits-train.txt", "digits-test.txt"):
        write_libsvm(tmp_path / name, 20)
    for data, splits in ((tmp_path, ("test",)), (tmp_path / "digits-train.txt", ("train", "validation", "test"))):
        config = loader.load(None, [f"data.dataset={data}"])
        selection = dataset.select_rows(config, models[0], "", "auto", NullReporter())
        assert selection.splits == splits
        # The model's description of its data overrides the settings.
        assert selection.config.data.image_shape == (12, 12, 1)
        assert selection.config.data.names == ("zero", "one", "two", "three")
    assert dataset.select_rows(config, models[0], "", "train", NullReporter()).splits == ("train",)


def test_a_damaged_table_is_refused_before_spark_starts(models, tmp_path):
    write_table(tmp_path / "t", {"test": 20})
    assert dataset.select_rows(Config(), models[0], str(tmp_path / "t"), "auto", NullReporter()).splits == ("test",)
    file = tmp_path / "t" / "split=test" / "part-00000.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"split=test/part-00000\.parquet .*; ingest it again"):
        dataset.select_rows(Config(), models[0], str(tmp_path / "t"), "auto", NullReporter())
    with pytest.raises(ConfigError, match="not a table"):
        dataset.select_rows(Config(), models[0], str(tmp_path), "auto", NullReporter())
