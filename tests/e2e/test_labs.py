"""All labs, run as `./convoy labs` does, on the small data set and for few epochs."""

import re
from pathlib import Path

import pytest

from notebooks.runner import __main__ as command
from notebooks.runner.outputs import Html, ImageOutput, Text

LABS = command.labs()
# The first test's fixture runs all labs, with fourteen trainings.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("labs")


@pytest.fixture(scope="module")
def executions(spark, home):
    """Executions by number. One session, one table, and each training once: labs reuse identical runs of earlier ones."""
    widgets = {"data": "mnist-5k", "epochs": "2", "optimizers": "sgd, adam", "storage": str(home)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_HOME", str(home))
        patch.setenv("CONVOY_DBFS_ROOT", str(home / "dbfs"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        return dict(enumerate(command.run(LABS, widgets, home), 1))


def printed(execution):
    texts = [output.text for result in execution.results for output in result.outputs if isinstance(output, Text)]
    return "\n".join(texts)


def tables(execution):
    return [output.html for result in execution.results for output in result.outputs if isinstance(output, Html)]


@pytest.mark.parametrize("number", range(1, 10))
def test_a_lab_runs_with_figures_and_without_warnings(executions, number):
    execution = executions[number]
    assert execution.error is None
    assert len(execution.results) == len(execution.notebook.cells)
    outputs = [output for result in execution.results for output in result.outputs]
    assert len([output for output in outputs if isinstance(output, ImageOutput)]) >= 1
    assert [output.text for output in outputs if isinstance(output, Text) and output.stream == "stderr"] == []
    assert "Warning" not in printed(execution)


def test_each_configuration_is_trained_once_for_all_labs(executions, home):
    names = [file.parent.name for file in (home / "runs").glob("*/summary.json")]
    assert len([name for name in names if "-mnist-5k-" in name]) == 6
    assert "trained with exactly these settings" in printed(executions[3])
    assert "trained with exactly these settings" in printed(executions[5])


def test_the_first_lab_reports_on_all_three_kinds_of_rows(executions):
    text = printed(executions[1])
    assert "15,700 + 315 + 160 = 16,175 weights" in text
    assert re.search(r"^test +\d+\.\d\d %, loss \d\.\d{4} \(1,000 rows, looked at once\)$", text, re.M)


def test_the_numbers_of_weights_in_the_labs_are_those_of_the_networks(executions):
    """The networks' docstrings have the same numbers, which tests/training checks against the networks."""
    assert " 149,010  in all" in printed(executions[2])
    assert re.search(r"^two layers .* = 126,490 weights$", printed(executions[3]), re.M)


def test_the_distributed_pipeline_has_two_ranks_whose_shards_cover_all_rows(executions):
    text = printed(executions[6])
    assert "2 workers x 64 rows = a global batch of 128" in text
    whole, halves = re.findall(r"^(?:gradient of the whole batch|mean of the halves' gradients) +(\[.*\])$", text, re.M)
    assert whole == halves
    shards = next(table for table in tables(executions[6]) if "first row" in table)
    assert "<td>1799</td>" in shards
    assert "<td>3599</td>" in shards


def test_the_model_loaded_by_the_last_lab_predicts_as_it_did_after_training(executions):
    right, recorded = re.findall(r"(?:gets|got) (\d+) of", printed(executions[7]))
    assert int(right) > 100
    assert right == recorded


def test_the_network_of_a_cell_learns_a_table_and_its_answers_go_back_into_it(executions):
    text = printed(executions[8])
    accuracy = float(re.search(r"^(\d+\.\d) % of \d+ tumours", text, re.M)[1])
    assert accuracy > 80
    assert any("prediction" in table and "malignant" in table for table in tables(executions[8]))


def test_a_network_that_starts_from_weights_is_ahead_after_an_epoch(executions):
    text = printed(executions[9])
    assert text.count("model.weights: 4 layers taken; random weights in hidden_high") == 2
    losses = dict(re.findall(r"^(from \w+|frozen) +after one epoch [\d.]+ %, loss ([\d.]+);", text, re.M))
    assert float(losses["from weights"]) < float(losses["from scratch"])


def test_each_lab_has_a_page_that_links_to_its_neighbours(executions, home):
    for number, execution in executions.items():
        text = (home / f"{execution.notebook.name}.html").read_text()
        assert f'<a href="{LABS[number % len(LABS)].name}.html">' in text or number == len(LABS)
        assert text.count("data:image/png;base64,") >= 1
        assert 'src="http' not in text


def test_listing_the_labs_needs_no_spark(capsys):
    command.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in sorted(Path(command.FOLDER).glob("*.py"))]
    assert "[data, epochs, workers, storage, again]" in lines[0]
