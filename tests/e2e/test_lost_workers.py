"""A whole job that loses workers, and the job that resumes its run.

The run folder is on a mounted object store like Databricks' volumes, if this kernel can mount one: without appends resuming is
harder. Lost ranks with ordinary folders are in tests/distributed.
"""

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from support import object_store
from support.rank_processes import processes_of_ranks
from test_jobs import ROOT, SUBMIT, command, environment, home

from pipelines.launch.health import heartbeat
from pipelines.system import checked_lines, writeback
from pipelines.track.mlflow.journal import Journal
from pipelines.track.rundir import layout
from pipelines.track.rundir.events import SpoolReader
from pipelines.train.checkpoint import store

pytestmark = pytest.mark.timeout(500)
__all__ = ["home"]
EPOCHS = 40
on_a_store = pytest.mark.skipif(bool(object_store.why_not()), reason=object_store.why_not())


@pytest.fixture(scope="module")
def runs(home):
    if object_store.why_not():
        yield home / "runs"
    else:
        with object_store.object_store(home / "store") as store:
            yield store / "runs"


@pytest.fixture(scope="module")
def variables(home):
    """Environment of the jobs, with a separate folder for temporary files."""
    scratch = home / "scratch"
    scratch.mkdir()
    return environment(home) | {"TMPDIR": str(scratch), "SPARK_LOCAL_DIRS": str(scratch)}


def kill_rank_one(run_dirs, attempt, epoch):
    """Kill rank 1 of this start with SIGKILL when it reaches this epoch."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for run_dir in run_dirs.glob("*"):
            last = heartbeat.read(run_dir / "attempts" / f"{attempt:03d}", 1)
            # Most of the time it is averaging gradients there.
            place = last is not None and re.match(r"epoch (\d+), step \d+", last.progress.activity)
            if place and int(place[1]) >= epoch:
                os.kill(last.pid, signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError("rank 1 was not seen")


@dataclass
class Lost:
    """A failed job."""

    code: int
    lines: list[str]
    seconds: float
    """Seconds from the last loss to the end."""
    run_dir: Path


@pytest.fixture(scope="module")
def lost(home, runs, variables):
    """A job whose rank 1 is killed twice, with one restart allowed."""
    settings = [f"training.epochs={EPOCHS}", "launch.max_restarts=1", "launch.stall_warning_seconds=1", "launch.log_level=DEBUG"]
    words = command(
        "train_cnn.py", "--data", str(home / "digits"), "--workers", "2", settings=[*settings, f"launch.runs_uri={runs}"]
    )
    process = subprocess.Popen(words, env=variables, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        kill_rank_one(runs, 1, 2)
        kill_rank_one(runs, 2, 4)
        killed = time.monotonic()
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    (run_dir,) = runs.glob("*-convnet-2w-*")
    return Lost(process.returncode, output.splitlines(), time.monotonic() - killed, run_dir)


def resume(home, runs, variables, *arguments):
    words = [str(SUBMIT), "--master", "local[2]", str(ROOT / "jobs" / "train_cnn.py"), "--resume", *arguments]
    words += ["--set", f"launch.runs_uri={runs}"]
    return subprocess.run(words, env=variables, cwd=home, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture(scope="module")
def resumed(lost, home, runs, variables):
    """The job that resumes that run, finished."""
    return resume(home, runs, variables, layout.read_record(lost.run_dir).run_id, "--summary", str(home / "resumed.json"))


def run_of(home, run_dir):
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    return mlflow.MlflowClient().get_run(layout.read_record(run_dir).run_id)


def test_the_job_restarts_once_and_then_fails_with_the_loss_as_its_headline(lost):
    assert lost.code == 1
    assert lost.seconds < 60
    restarts = [line for line in lost.lines if line.startswith("warning: restart 1 of 1: rank 1 on ")]
    assert len(restarts) == 1
    assert "killed by SIGKILL" in restarts[0]
    assert re.search(r"training continues from the checkpoint of epoch \d+$", restarts[0])
    assert lost.lines[-1].startswith("error: rank 1 on ")
    assert lost.lines[-1].endswith("launch.max_restarts=1 are used up")


def test_the_failed_run_records_the_restart_and_keeps_checkpoints(lost, home):
    run = run_of(home, lost.run_dir)
    assert run.info.status == "FAILED"
    assert run.data.tags["restarts"] == "1"
    assert "killed by SIGKILL" in run.data.tags["restart.1"]
    # On a busy machine others may come between.
    tags = [run.data.tags[f"symptom.{number}"] for number in range(1, 1 + int(run.data.tags["symptoms"]))]
    recorded = [checked_lines.decode(line) for line in (lost.run_dir / layout.SYMPTOMS_FILE).read_bytes().splitlines()]
    assert [f"{each['kind']}: {each['line']}" for each in recorded] == tags
    lost_twice = [each for each in recorded if each["kind"] == "lost"]
    assert [each["rank"] for each in lost_twice] == [1, 1]
    assert all("killed by SIGKILL" in each["line"] for each in lost_twice)
    assert len(list((lost.run_dir / "checkpoints").glob("*.json"))) == 3
    assert processes_of_ranks() == []


@on_a_store
def test_on_an_object_store_it_reports_that_files_are_copied(lost):
    assert writeback.probe(lost.run_dir) == "whole files"
    (warning,) = [line for line in lost.lines if "takes no appends" in line]
    assert warning.startswith("warning: run folder: ")
    assert "copied there about once a second" in warning


def test_resume_finishes_the_same_run_with_each_epoch_recorded_once(resumed, lost, home):
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert re.search(rf"^resume: .*{lost.run_dir.name} continues after epoch \d+$", resumed.stdout, re.MULTILINE)
    summary = json.loads((home / "resumed.json").read_text())
    assert (summary["run_id"], summary["epochs"]) == (layout.read_record(lost.run_dir).run_id, EPOCHS)
    run = run_of(home, lost.run_dir)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == summary["test"]["accuracy"] > 0.9
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation/loss")
    assert [metric.step for metric in history] == list(range(1, EPOCHS + 1))


def test_the_finished_run_has_the_model_system_metrics_and_the_merged_log(resumed, lost, home, tmp_path):
    run = run_of(home, lost.run_dir)
    assert "system/node-0/cpu_utilization_percentage" in run.data.metrics
    client = mlflow.MlflowClient()
    log = Path(client.download_artifacts(run.info.run_id, layout.MERGED_LOG, str(tmp_path))).read_text()
    for who in (" driver ", " rank 0 epoch ", " rank 1 epoch "):
        assert who in log
    model_uri = json.loads((lost.run_dir / layout.SUMMARY_FILE).read_text())["model_uri"]
    model = client.get_logged_model(model_uri.removeprefix("models:/"))
    assert (model.status, model.source_run_id) == ("READY", run.info.run_id)


def test_the_run_folder_is_complete_and_nothing_is_left_elsewhere(resumed, lost, home):
    run_dir = lost.run_dir
    assert store.newest(run_dir).state.epoch == EPOCHS
    kinds = {(event.rank, event.kind) for event in SpoolReader(run_dir / layout.SPOOL_FOLDER).new_events()}
    assert {(0, "saved"), (0, "test"), (1, "test"), (0, "system")} <= kinds
    assert Journal(run_dir).ended
    assert Journal(run_dir).pending() == []
    assert list(run_dir.rglob(".*")) == []
    assert not (run_dir / "driver.json").exists()
    left = [str(path) for path in (home / "scratch").rglob("*") if "hsperfdata" not in str(path)]
    assert left == []


def test_a_resumption_refused_for_its_table_leaves_checkpoints_and_settings_as_they_were(resumed, lost, home, runs, variables):
    kept = [lost.run_dir / layout.CONFIG_FILE, *sorted((lost.run_dir / layout.CHECKPOINT_FOLDER).rglob("*"))]
    before = {path: path.read_bytes() for path in kept}
    oldest = store.available(lost.run_dir)[-1]
    done = resume(home, runs, variables, str(oldest), "--set", "ingest.seed=2", "--set", "training.seed=2")
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert re.match(
        r"error: the run was trained on table \w+, this is \w+: other files, or other settings of data and ingest", last
    )
    assert "set aside" not in done.stdout
    # Nor is the run any other than it was.
    assert run_of(home, lost.run_dir).info.status == "FINISHED"
    after = [lost.run_dir / layout.CONFIG_FILE, *sorted((lost.run_dir / layout.CHECKPOINT_FOLDER).rglob("*"))]
    assert {path: path.read_bytes() for path in after} == before


def test_another_network_is_rejected_in_one_line(lost, home, runs, variables):
    done = resume(home, runs, variables, "latest", "--set", "model.name=mlp")
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("error: model.name=mlp: the checkpoint epoch-")
    assert last.endswith("holds convnet; start a new run for another one")
