"""Models of numbers evaluated, compared and scored in Spark's workers, with models that need no TensorFlow."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import mean_absolute_error, r2_score
from support.numbermodels import DEVIATIONS, predicted, saved
from support.reported import ReportedLines
from support.synthetic import features_and_numbers, row_weights, write_features_table, write_table

from pipelines.config import loader
from pipelines.errors import DataError
from pipelines.score import model_registry
from pipelines.score.batch.scoring_run import ScoringRequest, check, run_scoring
from pipelines.score.evaluate import evaluation
from pipelines.score.evaluate.evaluation import evaluate

ROWS = {"train": 60, "validation": 20, "test": 230}


@pytest.fixture(scope="module", params=[1, 2], ids=["one number", "two numbers with weights"])
def numbers(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    table = write_features_table(folder / "table", ROWS, targets=request.param, weighted=request.param == 2)
    return table, [saved(folder / str(factor), factor, request.param) for factor in (1.0, 0.2)]


def test_metrics_of_numbers_are_those_of_all_rows_however_spark_partitions_the_table(spark, numbers, monkeypatch):
    table, models = numbers
    targets = len(table.manifest.target_names)
    values, true = features_and_numbers(230, targets=targets, seed=2)
    weights = row_weights(230, seed=2) if table.manifest.weighted else None
    expected = predicted(values, 1.0, targets).astype(float)
    for rows_per_task in (1, 10**9):
        monkeypatch.setattr(evaluation, "_MIN_ROWS_PER_TASK", rows_per_task)
        comparison = evaluate(spark, models, table, ["test"])
        result, _ = comparison.results
        assert (result.rows, list(result.metrics)) == (230, ["rmse", "mae", "r2"])
        squared = np.average(((expected - true) ** 2).mean(axis=1), weights=weights)
        assert result.metrics["rmse"] == pytest.approx(np.sqrt(squared), rel=1e-6)
        assert result.metrics["mae"] == pytest.approx(mean_absolute_error(true, expected, sample_weight=weights), rel=1e-6)
        assert result.metrics["r2"] == pytest.approx(r2_score(true, expected, sample_weight=weights), abs=1e-6)
        losses = (((expected - true) / DEVIATIONS[:targets]) ** 2).mean(axis=1)
        assert result.loss == pytest.approx((losses * (1 if weights is None else weights)).mean(), rel=1e-5)
        np.testing.assert_array_equal(comparison.predictions.targets, true)
        np.testing.assert_allclose(comparison.predictions.outputs, expected, rtol=1e-6)


def test_a_challenger_of_numbers_becomes_champion_by_the_paired_test_on_errors(spark, numbers):
    table, models = numbers
    targets = len(table.manifest.target_names)
    values, true = features_and_numbers(230, targets=targets, seed=2)
    losses = [
        (((predicted(values, factor, targets).astype(float) - true) / DEVIATIONS[:targets]) ** 2).mean(axis=1)
        for factor in (1.0, 0.2)
    ]
    for order in ((0, 1), (1, 0)):
        pairs = evaluate(spark, [models[position] for position in order], table, ["test"]).pairs
        first, second = (losses[position] for position in order)
        assert pairs.p_value == pytest.approx(ttest_rel(first, second).pvalue, rel=1e-4)
        decision = model_registry.decide(pairs, 0.05, "abc")
        assert decision.promoted == (first.mean() < second.mean() and pairs.p_value < 0.05)
        assert "of 230 rows of table abc the challenger is closer on" in decision.reason
        assert "paired t-test on squared errors, p = " in decision.reason
        assert {"p_value", "relative_squared_error", "champion_relative_squared_error"} <= decision.facts.keys()


def test_a_table_or_model_of_another_task_or_other_numbers_is_refused_in_one_line(spark, numbers, tmp_path):
    table, models = numbers
    targets = len(table.manifest.target_names)
    classes = write_table(tmp_path / "classes", {"test": 4})
    with pytest.raises(DataError, match=r"has classes, but model .* was trained on numbers; name data that fit this model"):
        evaluate(spark, models[:1], classes, ["test"])
    other = write_features_table(tmp_path / "other", {"train": 4, "test": 4}, targets=3)
    with pytest.raises(DataError, match=r"has the numbers target_1, target_2, target_3, but model .* was trained on target_1"):
        evaluate(spark, models[:1], other, ["test"])
    if targets == 2:
        turned = saved(tmp_path / "turned", 1.0, 2, target_names=["target_2", "target_1"])
        one, other_order = evaluate(spark, [models[0], turned], table, ["test"]).predictions.outputs[0], (1, 0)
        alone = evaluate(spark, [turned], table, ["test"]).predictions.outputs[0]
        np.testing.assert_allclose(alone, one[list(other_order)], rtol=1e-6)


def test_scoring_adds_the_numbers_as_doubles(spark, numbers, tmp_path):
    table, models = numbers
    targets = len(table.manifest.target_names)
    values, true = features_and_numbers(40, targets=targets, seed=5)
    lines = [
        ",".join(map(str, number)) + " " + " ".join(f"{index + 1}:{value}" for index, value in enumerate(row))
        for number, row in zip(true, values, strict=True)
    ]
    (tmp_path / "rows.libsvm").write_text("\n".join(lines) + "\n")
    config = loader.load(None, [f"data.dataset={json.dumps(str(tmp_path / 'rows.libsvm'))}"])
    request = ScoringRequest(
        config=config, info=models[0], output=str(tmp_path / "out"), image_column="image", digits=False, overwrite=False
    )
    summary = run_scoring(spark, request, check(request), ReportedLines())
    assert summary["rows"] == 40
    scored = pq.read_table(tmp_path / "out", partitioning=None).to_pandas().sort_values("line")
    found = scored["prediction"]
    if targets == 2:
        found = [[row["target_1"], row["target_2"]] for row in found]
    np.testing.assert_allclose(np.reshape(list(found), (40, targets)), predicted(values, 1.0, targets), rtol=1e-5)
    assert set(scored) == {"file", "line", "label", "prediction", "model_uri", "model_version"}
    np.testing.assert_allclose(np.stack(list(scored["label"])).reshape(40, targets), true)
