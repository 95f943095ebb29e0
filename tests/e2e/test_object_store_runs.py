"""A whole training whose run folder lies on a mounted object store, as Databricks' volumes are, and that loses a worker."""

import json
from pathlib import Path

import mlflow
import psutil
import pytest
from object_store import object_store
from submitting import Training, write_digits

from pipelines import rundir, staging
from pipelines.spool import SpoolReader
from pipelines.track.journal import Journal
from pipelines.train import checkpoint

pytestmark = pytest.mark.timeout(280)
EPOCHS = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_digits(home)
    (home / "scratch").mkdir()
    return home


@pytest.fixture(scope="module")
def trained(home):
    """What the job said, and its run folder. Rank 1 is killed when its first epochs have been told."""
    with object_store(home / "store") as store:
        variables = {"TMPDIR": str(home / "scratch"), "SPARK_LOCAL_DIRS": str(home / "scratch")}
        settings = (f"training.epochs={EPOCHS}", f"launch.runs_uri={store}/runs", "launch.log_level=DEBUG")
        with Training(home, *settings, **variables) as training:
            training.wait_for("epoch 2/")
            rank_of(training, 1).kill()
            assert training.end(150) == 0, "\n".join(training.lines)
        (run_dir,) = (store / "runs").glob("*-convnet-2w")
        yield training.lines, run_dir


def rank_of(training: Training, rank: int) -> psutil.Process:
    (process,) = [process for process in training.processes() if process.name() == f"convoy-rank-{rank}"]
    return process


def test_it_says_that_files_are_copied_and_goes_on_from_the_checkpoint_when_a_rank_is_killed(trained):
    lines, run_dir = trained
    assert staging.probe(run_dir) == "whole files"
    (told,) = [line for line in lines if "takes no appends" in line]
    assert told.startswith("warning: run folder: ")
    assert "copied there about once a second" in told
    (restart,) = [line for line in lines if line.startswith("warning: restart 1 of ")]
    assert "killed by SIGKILL" in restart
    assert "training goes on from the checkpoint of epoch " in restart


def test_mlflow_has_every_epoch_once_the_test_the_model_and_the_log_of_all(trained, home, tmp_path):
    _, run_dir = trained
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    run = client.get_run(rundir.read_record(run_dir).run_id)
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "validation/loss")] == list(range(1, EPOCHS + 1))
    assert run.data.metrics["test/accuracy"] > 0.9
    assert "system/node-0/cpu_utilization_percentage" in run.data.metrics
    log = Path(client.download_artifacts(run.info.run_id, rundir.MERGED_LOG, str(tmp_path))).read_text()
    for who in (" driver ", " rank 0 epoch ", " rank 1 epoch "):
        assert who in log
    model = client.get_logged_model(json.loads((run_dir / rundir.SUMMARY_FILE).read_text())["model_uri"].removeprefix("models:/"))
    assert (model.status, model.source_run_id) == ("READY", run.info.run_id)


def test_the_run_folder_is_as_complete_as_any_and_nothing_is_left_elsewhere(trained, home):
    _, run_dir = trained
    assert checkpoint.newest(run_dir).state.epoch == EPOCHS
    kinds = {(event.rank, event.kind) for event in SpoolReader(run_dir / rundir.SPOOL_FOLDER).new_events()}
    assert {(0, "saved"), (0, "test"), (1, "test"), (0, "system")} <= kinds
    assert Journal(run_dir).ended
    assert Journal(run_dir).pending() == []
    assert list(run_dir.rglob(".*")) == []
    assert not (run_dir / "driver.json").exists()
    assert [path.name for path in (home / "scratch").iterdir() if not path.name.startswith("hsperfdata")] == []
