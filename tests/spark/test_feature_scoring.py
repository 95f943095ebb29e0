"""Models of features in predict, score and evaluate."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import featuremodels
from support.features import features_and_targets, write_libsvm, write_table
from support.reported import ReportedLines
from support.synthetic import write_table as write_pictures

from pipelines.config import loader
from pipelines.errors import DataError
from pipelines.score import model_info
from pipelines.score.batch.scoring_run import ScoringRequest, check, run_scoring
from pipelines.score.classifier import Classifier
from pipelines.score.evaluate import dataset
from pipelines.score.evaluate.evaluation import evaluate
from pipelines.score.predict import predict
from pipelines.system.reporter import NullReporter


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    folder = featuremodels.save(tmp_path_factory.mktemp("models") / "linear")
    return dataclasses.replace(model_info.read(folder, "models:/linear/1"), version="1")


def expected(values):
    return featuremodels.LinearModel().predict(None, values)


def scored(spark, info, location, output, column="image"):
    config = loader.load(None, [f"data.dataset={json.dumps(str(location))}"])
    request = ScoringRequest(config=config, info=info, output=str(output), image_column=column, digits=False, overwrite=False)
    run_scoring(spark, request, check(request), ReportedLines())
    return pq.read_table(output, partitioning=None).to_pandas()


def probabilities(table):
    return np.array([[row[name] for name in ("low", "high")] for row in table["probabilities"]])


def test_rows_of_features_are_predicted_whatever_their_target_and_range(info, tmp_path):
    values, _ = features_and_targets(40)
    values[3, 0] = 1e6
    file = tmp_path / "rows.libsvm"
    lines = [f"0.25 {' '.join(f'{place + 1}:{value!r}' for place, value in enumerate(row))}" for row in values.tolist()]
    file.write_text("\n".join(lines) + "\n")
    found = list(predict(Classifier(info), [str(file)], digits=False))
    np.testing.assert_allclose([list(one.outputs.values()) for one in found], expected(values), rtol=1e-5)
    file.write_text("0 6:1\n")
    with pytest.raises(DataError, match=r"rows\.libsvm:1: index 6 is above 5, data\.features=5"):
        list(predict(Classifier(info), [str(file)], digits=False))


def test_a_picture_is_no_row_of_features(info, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"a\.png: is a picture, but the model takes 5 features; name libsvm text"):
        list(predict(Classifier(info), [str(tmp_path / "a.png")], digits=False))


def test_text_and_tables_and_lists_of_features_are_scored(spark, info, tmp_path):
    write_libsvm(tmp_path / "rows.libsvm", 60, classes=True)
    values, _ = features_and_targets(60)
    text = scored(spark, info, tmp_path / "rows.libsvm", tmp_path / "a").sort_values("line")
    np.testing.assert_allclose(probabilities(text), expected(values), rtol=1e-5)

    write_table(tmp_path / "table", {"train": 60, "test": 50}, task="classification")
    table = scored(spark, info, tmp_path / "table", tmp_path / "b")
    np.testing.assert_allclose(
        probabilities(table), expected(np.stack([np.frombuffer(row, "<f4") for row in table["features"]])), rtol=1e-5
    )

    lists = pa.table({"numbers": pa.array(values.tolist()), "id": list(range(60))})
    pq.write_table(lists, tmp_path / "lists.parquet")
    listed = scored(spark, info, tmp_path / "lists.parquet", tmp_path / "c", column="numbers").sort_values("id")
    np.testing.assert_allclose(probabilities(listed), expected(values), rtol=1e-5)


def test_of_text_in_several_files_those_of_the_pattern_are_scored(spark, info, tmp_path):
    for name, rows in (("part-1", 30), ("part-2", 20), ("other", 10)):
        write_libsvm(tmp_path / f"{name}.libsvm", rows, classes=True)
    text = scored(spark, info, tmp_path / "part-*.libsvm", tmp_path / "out").sort_values(["file", "line"])
    assert list(text["file"]) == [f"{tmp_path}/part-1.libsvm"] * 30 + [f"{tmp_path}/part-2.libsvm"] * 20
    assert list(text["line"]) == [*range(1, 31), *range(1, 21)]
    first, second = (features_and_targets(rows)[0] for rows in (30, 20))
    np.testing.assert_allclose(probabilities(text), expected(np.concatenate([first, second])), rtol=1e-5)


def test_a_table_of_features_is_evaluated_and_one_of_pictures_is_refused(spark, info, tmp_path):
    table = write_table(tmp_path / "table", {"train": 60, "test": 150}, task="classification")
    values, targets = features_and_targets(150, seed=2)
    (result,) = evaluate(spark, [info], table, ["test"]).results
    assert result.rows == 150
    assert result.metrics["accuracy"] == (expected(values).argmax(axis=1) == (targets > 50)).mean() > 0.9
    pictures = write_pictures(tmp_path / "pictures", {"train": 60, "test": 50}, classes=2)
    with pytest.raises(DataError, match=r"has image shape \[12, 12, 1\], but model .* was trained on \[5\]"):
        evaluate(spark, [info], pictures, ["test"])


def test_new_text_is_ingested_with_the_settings_of_the_model(spark, info, tmp_path):
    write_libsvm(tmp_path / "rows.libsvm", 200, classes=True)
    config = loader.load(None, [f"data.dataset={tmp_path}/rows.libsvm", f"ingest.tables_uri={tmp_path}/tables"])
    selection = dataset.select_rows(config, info, "", "auto", NullReporter())
    table = selection.open(spark, NullReporter())
    assert table.manifest.spec.shape == (5,)
    (result,) = evaluate(spark, [info], table, selection.splits).results
    assert result.rows == 200
    assert result.metrics["accuracy"] > 0.9


@pytest.fixture(scope="module")
def of_numbers(tmp_path_factory):
    folder = featuremodels.save(tmp_path_factory.mktemp("models") / "numbers", numbers=True)
    return model_info.read(folder, "models:/numbers/1")


def test_text_is_predicted_and_scored_by_a_model_of_numbers(spark, of_numbers, tmp_path):
    file = tmp_path / "rows.libsvm"
    write_libsvm(file, 40, classes=False)
    with file.open("a") as opened:
        opened.write("unknown 1:1\n")
    values, targets = features_and_targets(40)
    wanted = featuremodels.LinearModel(numbers=True).predict(None, values)[:, 0]
    found = list(predict(Classifier(of_numbers), [str(file)], digits=False))
    np.testing.assert_allclose([one.outputs["target"] for one in found][:40], wanted, rtol=1e-4)

    table = scored(spark, of_numbers, file, tmp_path / "out").sort_values("line")
    assert len(table) == 41
    np.testing.assert_allclose(table["label"][:40], targets, rtol=1e-6)
    assert np.isnan(table["label"].iloc[40])
    np.testing.assert_allclose(table["prediction"][:40], wanted, rtol=1e-4)


def test_new_text_is_evaluated_by_a_model_of_numbers(spark, of_numbers, tmp_path):
    write_libsvm(tmp_path / "rows.libsvm", 200, classes=False)
    config = loader.load(None, [f"data.dataset={tmp_path}/rows.libsvm", f"ingest.tables_uri={tmp_path}/tables"])
    selection = dataset.select_rows(config, of_numbers, "", "auto", NullReporter())
    table = selection.open(spark, NullReporter())
    assert (table.manifest.spec.task, table.manifest.target_names) == ("regression", ("target",))
    (result,) = evaluate(spark, [of_numbers], table, selection.splits).results
    assert result.rows == 200
    # The noise.
    assert result.metrics["rmse"] == pytest.approx(0.1, rel=0.2)


def test_tables_of_spark_are_scored_in_the_columns_of_the_training_and_bad_rows_named_by_their_ids(spark, info, tmp_path):
    values, _ = features_and_targets(40)
    names = [f"number {place}" for place in range(5)]
    rows = [(number, *map(float, row)) for number, row in enumerate(values)]
    frame = spark.createDataFrame(rows, ["id", *names])
    frame.createOrReplaceTempView("numbers_to_score")
    frame.coalesce(1).write.orc(str(tmp_path / "numbers.orc"))
    reading = dataclasses.replace(info.reading, source="table", columns={"label": ["y"], "features": names, "id": "id"})
    info = dataclasses.replace(info, reading=reading)
    for place, location in enumerate(("table:numbers_to_score", f"orc:{tmp_path}/numbers.orc")):
        table = scored(spark, info, location, tmp_path / str(place), column="").sort_values("id")
        np.testing.assert_allclose(probabilities(table), expected(values), rtol=1e-5)
    frame.selectExpr(
        "id", "CASE WHEN id = 7 THEN NULL ELSE `number 0` END AS `number 0`", *(f"`{name}`" for name in names[1:])
    ).createOrReplaceTempView("numbers_to_score")
    with pytest.raises(DataError, match=r"table:numbers_to_score: row with id 7: the value at \[0\] is missing"):
        scored(spark, info, "table:numbers_to_score", tmp_path / "bad", column="")
