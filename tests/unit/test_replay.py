"""Replay after the tracking server has lost something: all of its data, what came after a backup, files, the run of a parent."""

import contextlib
import shutil
import sqlite3
import time

import mlflow
import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from support.synthetic import write_table

from pipelines.config import TrackingConfig
from pipelines.errors import ConvoyError
from pipelines.track.mlflow import logged_model, recent_runs
from pipelines.track.mlflow import replay as replay_module
from pipelines.track.mlflow.journal import Journal
from pipelines.track.mlflow.replay import replay, with_trials
from pipelines.track.rundir import layout
from pipelines.track.tracked_run import TrackedRun

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


class Nothing(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[float]):
        return model_input


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A sweep with one trial, complete in a store of its own. The tests lose parts of it and complete it again."""
    home = tmp_path_factory.mktemp("home")
    trial = home / "sweep/trials/one"
    trial.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_HOME", str(home))
        patch.setattr(replay_module, "_PAUSE_SECONDS", 0.0)
        with tracked(home, home / "sweep") as run:
            run.tags({"kind": "sweep"})
        with tracked(home, trial, parent=home / "sweep") as child:
            child.parameters({"epochs": "2"})
            child.tags({"kind": "trial"})
            for step, value in enumerate((1.0, float("nan"), float("inf"))):
                child.metrics({"loss": value, "accuracy": 0.5}, step)
            child.text("hello", "notes/hello.txt")
            child.text("top", "top.txt")
            child.dataset(write_table(home / "table", {"train": 12, "test": 6}))
            signature = ModelSignature(Schema([TensorSpec(np.dtype("float32"), (-1, 2))]))
            mlflow.pyfunc.save_model(str(trial / "model"), python_model=Nothing(), signature=signature, pip_requirements=[])
            child.model(trial / "model")
        assert run.warnings + child.warnings == []
        yield home


def tracked(home, run_dir, **options):
    tracking = TrackingConfig(uri=f"sqlite:///{home}/mlflow.db", experiment="lost", finish_timeout_seconds=60)
    return TrackedRun(tracking, run_dir.name, run_dir, **options)


def contents(home):
    """What the store has of the trial."""
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    records = [layout.read_record(folder) for folder in with_trials(home / "sweep")]
    run = client.get_run(records[1].run_id)
    points = {
        key: [(point.step, point.timestamp) for point in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }
    files = sorted(file.path for folder in ("", "notes") for file in client.list_artifacts(run.info.run_id, folder))
    assert logged_model.logged_uri(client, run.info.run_id, run.info.experiment_id)
    tags = {key: value for key, value in run.data.tags.items() if key in ("kind", "convoy.journal", "mlflow.parentRunId")}
    assert tags.pop("mlflow.parentRunId") == records[0].run_id
    inputs = sorted((each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs)
    return run.info.status, run.info.end_time, run.data.params, tags, points, files, inputs


def replayed(home):
    return [replay(folder).entries for folder in with_trials(home / "sweep")]


def lose_all(home):
    lose_trial(home)
    lose_sweep(home)
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as store:
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
    change(home, *(f"DELETE FROM {name}" for name in ("experiment_tags", "experiments", "logged_models") if name in tables))
    shutil.rmtree(home / "mlartifacts")


def lose_points(home):
    change(home, "DELETE FROM metrics WHERE step = 1", "DELETE FROM latest_metrics WHERE key = 'loss'")


def lose_values(home):
    change(
        home, "DELETE FROM params", "DELETE FROM tags WHERE key = 'kind'", "UPDATE runs SET status = 'RUNNING', end_time = NULL"
    )


def lose_inputs(home):
    change(home, "DELETE FROM input_tags", "DELETE FROM inputs")


def lose_file(home):
    (found,) = home.glob("mlartifacts/**/hello.txt")
    found.unlink()


def lose_model(home):
    found = list(home.glob("mlartifacts/**/MLmodel"))
    assert found
    # MLflow 2 keeps a second one below `metadata`.
    for file in found:
        shutil.rmtree(file.parent, ignore_errors=True)


def lose_trial(home):
    purge(home, layout.read_record(home / "sweep/trials/one").run_id)


def lose_sweep(home):
    purge(home, layout.read_record(home / "sweep").run_id)


def purge(home, run_id):
    change(
        home,
        *(
            f"DELETE FROM {table} WHERE run_uuid = '{run_id}'"
            for table in ("tags", "params", "metrics", "latest_metrics", "runs")
        ),
    )


def change(home, *statements):
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as store, store:
        for statement in statements:
            store.execute(statement)


@pytest.mark.parametrize(
    "lose",
    [lose_all, lose_points, lose_values, lose_inputs, lose_file, lose_model, lose_trial, lose_sweep],
    ids=lambda lose: lose.__name__,
)
def test_what_the_server_has_lost_is_sent_again(home, lose):
    assert replayed(home) == [0, 0]
    whole = contents(home)
    lose(home)
    assert sum(replayed(home)) > 0
    assert contents(home) == whole
    assert replayed(home) == [0, 0]


def test_a_resumed_run_that_the_server_has_lost_is_created_again_with_all_that_it_had(home):
    whole = contents(home)
    lose_trial(home)
    with tracked(home, home / "sweep/trials/one") as run:
        run.metrics({"accuracy": 0.75}, 9)
    assert run.warnings == []
    found = contents(home)
    assert [step for step, _ in found[4]["accuracy"]] == [0, 1, 2, 9]
    assert (found[2], found[3], *found[5:]) == (whole[2], whole[3], *whole[5:])


def test_a_run_that_was_deleted_is_not_called_complete(home):
    run_id = layout.read_record(home / "sweep").run_id
    mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db").delete_run(run_id)
    restore = rf"restore it there \(mlflow runs restore --run-id {run_id}\)"
    with pytest.raises(ConvoyError, match=rf"sweep: its run was deleted in MLflow .*; {restore}"):
        replay(home / "sweep")
    mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db").restore_run(run_id)


def test_a_server_that_cannot_be_asked_is_an_error_although_everything_was_sent(home):
    change(home, "ALTER TABLE runs RENAME TO gone")
    with pytest.raises(ConvoyError, match=r"sweep: could not be compared with MLflow at sqlite.*; run the same command again"):
        replay(home / "sweep")
    change(home, "ALTER TABLE gone RENAME TO runs")


def test_a_database_that_was_deleted_while_a_run_is_recorded_is_not_written_to_unseen(home):
    database = home / "mlflow.db"
    with tracked(home, home / "sweep") as run:
        # Otherwise the thread may have looked at the file before, and send to the one that was moved away.
        deadline = time.monotonic() + 60
        while Journal(home / "sweep").pending():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        database.rename(home / "kept.db")
        shutil.copy(home / "kept.db", database)
        run.tags({"kind": "sweep"})
    (home / "kept.db").replace(database)
    assert (
        f"{database} was deleted or replaced while this process had it open); to complete it: ./convoy replay" in run.warnings[0]
    )
    assert replayed(home)[0] > 0


def test_a_server_that_does_not_answer_is_not_one_without_runs(home):
    assert recent_runs.find(f"sqlite:///{home}/mlflow.db", "absent", 3) == []
    assert {run["name"] for run in recent_runs.find(f"sqlite:///{home}/mlflow.db", "lost", 3)} == {"sweep", "one"}
    with pytest.raises(
        ConvoyError, match=r"MLflow at http://\*\*\*@127\.0\.0\.1:9: the runs of experiment lost could not be listed"
    ):
        recent_runs.find("http://ann:planted@127.0.0.1:9", "lost", 3)


def test_the_list_of_runs_names_the_metric_of_each(home):
    uri = f"sqlite:///{home}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("results")
    for name, value in (("accuracy", 0.98765), ("rmse", 54.321)):
        run = client.create_run(experiment, run_name=name)
        client.log_metric(run.info.run_id, f"test/{name}", value)
    found = recent_runs.find(uri, "results", 3)
    assert {run["name"]: run["test result"] for run in found} == {"accuracy": "accuracy 98.77 %", "rmse": "rmse 54.321"}
    assert recent_runs.table(found)[0].split()[:4] == ["started", "name", "test", "result"]
