"""A sweep whose driver is killed midway, and which is resumed."""

import json
import time
from pathlib import Path

import mlflow
import pytest
import yaml
from support import hostile
from support.submitting import ROOT, SUBMIT, Training, write_digits

from pipelines.config import loader

pytestmark = pytest.mark.timeout(280)

SETTINGS = {
    "data.image_shape": [12, 12, 1],
    "data.classes": 4,
    "model.name": "mlp",
    "training.batch_size_per_worker": 16,
    "training.precision": "float32",
    "training.schedule": "constant",
    "launch.threads_per_worker": 1,
}
# The first is short, the second longer, and the last learns nothing, so that it is pruned when compared with the first.
POINTS = {
    "short": {"training.base_learning_rate": 0.01, "training.epochs": 2},
    "long": {"training.base_learning_rate": 0.01, "training.epochs": 80},
    "slow": {"training.base_learning_rate": 1e-7, "training.epochs": 2},
}


class Sweep(Training):
    job = "sweep.py"

    @staticmethod
    def command(home, *arguments):
        return [str(SUBMIT), "--master", "local[2]", str(ROOT / "jobs" / "sweep.py"), *arguments]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = hostile.folder(tmp_path_factory.mktemp("home"))
    write_digits(folder)
    content = {
        "name": "rates",
        "config": str(ROOT / "conf" / "mlp.yml"),
        "set": SETTINGS,
        "points": {"rate": POINTS},
        "pruning": "median",
        "pruning_after_trials": 1,
    }
    (folder / "rates.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def summary(home):
    """Summary of a sweep whose driver was killed when the first trial had ended and two were running."""
    with Sweep(home, "rates.yml", "--data", str(home / "digits")) as sweep:
        sweep.wait_for("trial ")
        deadline = time.monotonic() + 30
        while not list(home.glob("runs/*/trials/*-trial-3/run.json")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        sweep.driver.kill()
        sweep.end()
    assert any("3 trials, 2 side by side, 1 worker each, 1 thread per worker" in line for line in sweep.lines)
    with Sweep(home, "--resume", "latest", "--summary", str(home / "summary.json")) as sweep:
        assert sweep.end(200) == 0, "\n".join(sweep.lines)
    text = "\n".join(sweep.lines)
    assert "its driver (process " in text
    assert "resume with ./convoy sweep --resume " in text
    assert "2 trials (1 done), 2 side by side" in text
    return json.loads((home / "summary.json").read_text())


def runs_below(home, summary):
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    run = client.get_run(summary["run_id"])
    children = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{summary['run_id']}'")
    return client, run, children


def test_a_killed_sweep_continues_and_its_trials_are_child_runs(home, summary):
    assert summary["counts"] == {"finished": 2, "pruned": 1, "failed": 0}
    client, run, trials = runs_below(home, summary)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["trials/pruned"] == 1
    # Trials that were running when the driver died are there, too, as KILLED.
    assert {trial.info.status for trial in trials} == {"FINISHED", "KILLED"}
    finished = [trial for trial in trials if trial.info.status == "FINISHED"]
    assert sorted(trial.info.run_id for trial in finished) == sorted(row["run"] for row in summary["trials"])
    (pruned,) = [trial for trial in finished if "pruned" in trial.data.tags]
    assert pruned.data.tags["pruned"] == "after epoch 1 of 2"
    assert pruned.data.params["training.base_learning_rate"] == "1e-07"
    artifacts = {artifact.path for artifact in client.list_artifacts(summary["run_id"])}
    assert artifacts >= {"sweep.yml", "results.csv", "results.md", "best.yml", "figures", "run.log"}
    figures = {artifact.path for artifact in client.list_artifacts(summary["run_id"], "figures")}
    assert figures == {"figures/parallel_coordinates.png", "figures/parallel_coordinates.csv"}


def test_trials_are_compared_on_validation_rows_and_only_the_best_one_is_tested(home, summary):
    _, run, trials = runs_below(home, summary)
    finished = [row for row in summary["trials"] if row["state"] == "finished"]
    best = min(finished, key=lambda row: row["validation/loss"])
    assert (summary["best"]["trial"], summary["best"]["run_id"]) == (best["trial"], best["run"])
    tested = [trial for trial in trials if "test/accuracy" in trial.data.metrics]
    assert [trial.info.run_id for trial in tested] == [best["run"]]
    assert run.data.metrics["best/test/accuracy"] == tested[0].data.metrics["test/accuracy"] > 0.5
    assert summary["best"]["model_uri"]


def test_the_best_configuration_is_that_of_the_best_trial_and_can_be_trained(home, summary):
    best = loader.load(Path(summary["best"]["config"]))
    assert best.training.base_learning_rate == 0.01
    assert best.data.dataset == str(home / "digits")
    assert best.checkpoint.every_epochs == 1
