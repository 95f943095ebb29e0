"""The Python API, as its page shows it."""

import linecache
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/api.md").read_text(), re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def names(spark, home):
    """What is defined after all pieces of code on the page have run in order, as the cells of a notebook."""
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        for number, text in enumerate(SNIPPETS):
            cell = f"<api.md {number}>"
            linecache.cache[cell] = len(text), None, text.splitlines(keepends=True), cell
            exec(compile(text, cell, "exec"), names)
        yield names


def test_the_page_trains_a_network_of_a_cell_on_a_frame(names):
    run = names["run"]
    assert run.metrics["test/accuracy"] > 0.8
    assert {"train/loss", "validation/loss", "test/loss"} <= set(run.metrics)
    assert len(run.history) == 30
    assert run.summary.workers == 2
    assert run.summary.run_id
    assert run.model_uri.startswith(("runs:/", "models:/"))
    assert run.figure("confusion_matrix")


def test_its_model_is_evaluated_on_the_rows_that_it_was_not_trained_on(names):
    assert names["evaluation"]["test"]["rows"] == names["run"].summary.rows.test == 45
    assert names["evaluation"]["left_out_rows"] == 150 - 45
    assert names["evaluation"]["test"]["accuracy"] == pytest.approx(names["run"].metrics["test/accuracy"])
    assert names["evaluation"]["parent_run_id"] == names["run"].summary.run_id


def test_scores_have_all_columns_and_agree_with_predictions_and_with_the_model(names):
    rows = names["scored"].collect()
    assert {*names["frame"].columns, "prediction", "probabilities"} <= set(names["scored"].columns)
    assert len(rows) == 150
    assert sum(row["prediction"] == row["species"] for row in rows) > 120
    assert names["probabilities"].shape == (1, 3)
    assert names["probabilities"].sum() == pytest.approx(1, abs=1e-5)
    assert names["model"].count_params() > 100


def test_a_request_that_is_wrong_is_one_line(names, home, capsys):
    with pytest.raises(names["ConfigError"]) as failure:
        names["api"].train(names["frame"], names["network"], columns={"label": "kind"}, settings=names["settings"])
    assert "kind" in str(failure.value)
    assert "\n" not in str(failure.value)
