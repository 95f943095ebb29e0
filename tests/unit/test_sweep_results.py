import csv
import io

import pytest
import yaml

from pipelines.sweep import results, sweep_file
from pipelines.sweep.search import FinishedTrial, TrialOutcome

SPACE = {"training.base_learning_rate": [0.1, 0.01]}


@pytest.fixture
def sweep(tmp_path):
    def read(**content):
        (tmp_path / "base.yml").write_text("training: {epochs: 9}\n")
        file = tmp_path / "trial.yml"
        file.write_text(yaml.safe_dump({"config": str(tmp_path / "base.yml"), "space": SPACE} | content, sort_keys=False))
        return sweep_file.load(file)

    return read


def ended(sweep, *outcomes):
    return [FinishedTrial(number, sweep.points[number - 1], outcome) for number, outcome in enumerate(outcomes, 1)]


def finished(value, **more):
    return TrialOutcome(state="finished", value=value, seconds=10.0, epochs=9, **more)


FAILED = TrialOutcome(state="failed", note="the loss is not finite", seconds=1.0)


def test_trials_are_ordered_finished_best_first_then_pruned_then_failed(sweep):
    found = sweep(space={"training.seed": [1, 2, 3, 4]})
    pruned = TrialOutcome(state="pruned", value=0.01, note="after epoch 1 of 9", epochs=1)
    trials = ended(found, FAILED, finished(0.4), pruned, finished(0.2))
    by_accuracy = sweep(space={"training.seed": [1, 2, 3, 4]}, objective="validation/accuracy")
    table = results.rows(found, trials)
    assert [row["trial"] for row in table] == [4, 2, 3, 1]
    assert [row["state"] for row in table[1:]] == ["finished", "pruned after epoch 1 of 9", "failed"]
    assert [row["reason"] for row in table] == ["", "", "", "the loss is not finite"]
    assert "not finite" in results.as_markdown(table, found.metric)
    assert "not finite" not in "\n".join(results.as_text(table, found.metric))
    assert [row["trial"] for row in results.rows(by_accuracy, trials[:2] + trials[3:])] == [2, 4, 1]


def test_the_best_has_the_best_mean_over_seeds_not_the_luckiest_seed(sweep):
    found = sweep(seeds=[1, 2])
    trials = ended(found, finished(0.1), finished(0.9), finished(0.3), finished(0.4))
    assert results.best(found, trials).number == 3
    assert [row["validation/loss, mean"] for row in results.comparison(found, trials)] == pytest.approx([0.5, 0.35])


def test_a_configuration_with_a_failed_seed_cannot_be_the_best(sweep):
    found = sweep(seeds=[1, 2])
    assert results.best(found, ended(found, finished(0.1), FAILED, finished(0.3), finished(0.4))).number == 3
    assert results.best(found, ended(found, FAILED)) is None


def test_a_comparison_selects_nothing_and_reports_mean_and_range_of_each_configuration(sweep):
    found = sweep(purpose="compare", seeds=[1, 2])
    trials = ended(found, finished(0.98), finished(0.99), finished(0.97), FAILED)
    assert results.best(found, trials) is None
    first, second = results.comparison(found, trials)
    assert first == {
        "base_learning_rate": "0.1",
        "test/accuracy, mean": pytest.approx(0.985),
        "lowest": 0.98,
        "highest": 0.99,
        "trials": 2,
        "failed": 0,
        "seconds, median": 10.0,
    }
    assert (second["trials"], second["failed"]) == (1, 1)
    markdown = results.as_markdown([first, second], found.metric)
    assert "| 0.1 | 98.50 % | 98.00 % | 99.00 % | 2 | 0 | 10.0 |" in markdown.splitlines()


def test_a_trial_line_has_settings_outcome_and_progress_of_the_sweep(sweep):
    found = sweep()
    lines = [results.trial_line(found, trial, 1) for trial in ended(found, finished(0.12345), FAILED)]
    assert lines == [
        "trial 1 (1 of 2)  base_learning_rate 0.1  validation/loss 0.1235  10.0 s",
        "trial 2 (1 of 2)  base_learning_rate 0.01  1.0 s  failed: the loss is not finite",
    ]


def test_tables_have_test_columns_only_for_tested_trials_and_csv_is_unrounded(sweep):
    found = sweep()
    tested = finished(0.123456789, metrics={"test/accuracy": 0.5, "validation/accuracy": 0.4})
    table = list(csv.DictReader(io.StringIO(results.as_csv(results.rows(found, ended(found, tested, finished(0.2)))))))
    assert [row["test/accuracy"] for row in table] == ["0.5", ""]
    assert table[0]["validation/loss"] == "0.123456789"
    assert "test/accuracy" not in results.rows(found, ended(found, finished(0.2)))[0]
    assert results.as_text(results.rows(found, ended(found, tested)), found.metric)[1].split()[:4] == [
        "1",
        "0.1",
        "0.1235",
        "50.00",
    ]
