"""A whole job that loses workers, and the job that goes on with its run."""

import json
import os
import re
import signal
import subprocess
import time

import mlflow
import pytest
from rank_processes import processes_of_ranks
from test_jobs import ROOT, SUBMIT, command, environment, home

from pipelines.launch import heartbeat

pytestmark = pytest.mark.timeout(500)
__all__ = ["home"]
EPOCHS = 60


def kill_rank_one(run_dirs, attempt, epoch):
    """SIGKILL, from outside, when rank 1 of this start has come to this epoch."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for run_dir in run_dirs.glob("*"):
            last = heartbeat.read(run_dir / "attempts" / f"{attempt:03d}", 1)
            place = last is not None and re.fullmatch(r"epoch (\d+), step \d+", last.progress.activity)
            if place and int(place[1]) >= epoch:
                os.kill(last.pid, signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError("rank 1 was not seen")


@pytest.fixture(scope="module")
def lost(home):
    """A job whose rank 1 is killed twice, with one restart allowed."""
    process = subprocess.Popen(
        command(
            "train_cnn.py",
            "--data",
            str(home / "digits"),
            "--workers",
            "2",
            settings=[f"training.epochs={EPOCHS}", "launch.max_restarts=1", "launch.stall_warning_seconds=1"],
        ),
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        kill_rank_one(home / "runs", 1, 2)
        kill_rank_one(home / "runs", 2, 4)
        killed = time.monotonic()
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    (run_dir,) = (home / "runs").glob("*")
    return process.returncode, output.splitlines(), time.monotonic() - killed, run_dir


def resumed(home, *arguments):
    return subprocess.run(
        [str(SUBMIT), "--master", "local[2]", str(ROOT / "jobs" / "train_cnn.py"), "--resume", *arguments],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def run_of(home, run_dir):
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    return mlflow.MlflowClient().get_run(json.loads((run_dir / "run.json").read_text())["run_id"])


def test_the_job_restarts_once_then_fails_with_the_loss_as_its_headline(lost):
    code, lines, seconds, _ = lost
    assert code == 1
    assert seconds < 60
    restarts = [line for line in lines if line.startswith("warning: restart 1 of 1: rank 1 on ")]
    assert len(restarts) == 1
    assert "killed by SIGKILL" in restarts[0]
    assert re.search(r"training goes on from the checkpoint of epoch \d+$", restarts[0])
    assert lines[-1].startswith("error: rank 1 on ")
    assert lines[-1].endswith("launch.max_restarts=1 are used up")


def test_the_failed_run_tells_the_restart_and_leaves_checkpoints(lost, home):
    run = run_of(home, lost[3])
    assert run.info.status == "FAILED"
    assert run.data.tags["restarts"] == "1"
    assert "killed by SIGKILL" in run.data.tags["restart.1"]
    assert len(list((lost[3] / "checkpoints").glob("*.json"))) == 3
    assert processes_of_ranks() == []


def test_resume_finishes_the_same_run_with_each_epoch_told_once(lost, home):
    before = run_of(home, lost[3])
    done = resumed(home, before.info.run_id, "--summary", str(home / "resumed.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^resume: runs/{lost[3].name} goes on after epoch \d+$", done.stdout, re.MULTILINE)
    summary = json.loads((home / "resumed.json").read_text())
    assert (summary["run_id"], summary["epochs"]) == (before.info.run_id, EPOCHS)
    run = run_of(home, lost[3])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == summary["test"]["accuracy"]
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation/loss")
    assert [metric.step for metric in history] == list(range(1, EPOCHS + 1))


def test_another_network_is_refused_in_one_line(lost, home):
    done = resumed(home, "latest", "--set", "model.name=mlp")
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("error: model.name=mlp: the checkpoint epoch-")
    assert last.endswith("holds convnet; start a new run for another one")
