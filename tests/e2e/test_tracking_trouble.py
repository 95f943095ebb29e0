"""A tracking server that is down, slow or full, or rejects a value: training continues, and the run is completed later."""

import json
import re
import subprocess
import sys
import time

import mlflow
import pytest
from support import hostile
from support.disk_faults import fill, small_disk
from support.submitting import ROOT, Training, environment, submit, write_digits
from support.tracking_server import Server, free_port, slow

from pipelines.config import TrackingConfig
from pipelines.errors import ConvoyError
from pipelines.track.mlflow.replay import replay
from pipelines.track.tracked_run import TrackedRun

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(tmp_path))
    return tmp_path


def tracked(run_dir, uri, **settings):
    return TrackedRun(TrackingConfig(uri=uri, experiment="trouble", **settings), "a run", run_dir)


def record(run):
    """Record like a small training."""
    run.settings({"training.epochs": "3"}, "training:\n  epochs: 3\n")
    run.tags({"note": "one"})
    for epoch in (1, 2, 3):
        run.metrics({"train/loss": 1 / epoch, "train/accuracy": float("nan")}, epoch)
    run.text("hello", "notes/hello.txt")


def contents(uri, run_id):
    """The status, and everything that must not be logged twice."""
    client = mlflow.MlflowClient(uri)
    run = client.get_run(run_id)
    history = {key: [(m.step, m.timestamp) for m in client.get_metric_history(run_id, key)] for key in run.data.metrics}
    artifacts = sorted(file.path for folder in ("", "notes") for file in client.list_artifacts(run_id, folder))
    runs = len(client.search_runs([run.info.experiment_id], f"tags.`convoy.journal` = '{run.data.tags['convoy.journal']}'"))
    return run.info.status, run.info.end_time, run.data.params, run.data.tags, history, artifacts, runs


def assert_complete(uri, run_id, status="FINISHED"):
    found = contents(uri, run_id)
    assert found[0] == status
    assert found[2] == {"training.epochs": "3"}
    assert [step for step, _ in found[4]["train/loss"]] == [1, 2, 3]
    assert [step for step, _ in found[4]["train/accuracy"]] == [1, 2, 3]
    assert found[5] == ["config.yml", "notes", "notes/hello.txt"]
    assert found[6] == 1
    return found


def test_an_unreachable_server_delays_the_end_by_at_most_five_seconds_and_replay_completes_the_run(home, server):
    run = tracked(home / "run", f"http://127.0.0.1:{free_port()}")
    record(run)
    time.sleep(1)
    started = time.monotonic()
    run.finish("FINISHED")
    # The import of MLflow may still be running.
    assert time.monotonic() - started < 15
    assert run.run_id == ""
    (warning,) = run.warnings
    assert re.search(r"lacks \d+ entries of this run \(.*\); to complete it: \./convoy replay run$", warning)
    done = replay(home / "run", server.uri)
    first = assert_complete(server.uri, done.run_id)
    again = replay(home / "run", server.uri)
    assert (again.run_id, again.entries) == (done.run_id, 0)
    assert contents(server.uri, done.run_id) == first


def test_a_server_that_dies_meanwhile_is_brought_up_to_date_when_it_returns(home, server):
    run = tracked(home / "run", server.uri)
    run.settings({"training.epochs": "3"}, "training:\n  epochs: 3\n")
    run.metrics({"train/loss": 1.0, "train/accuracy": float("nan")}, 1)
    deadline = time.monotonic() + 60
    while not run.run_id:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.kill()
    run.tags({"note": "one"})
    for epoch in (2, 3):
        run.metrics({"train/loss": 1 / epoch, "train/accuracy": float("nan")}, epoch)
    run.text("hello", "notes/hello.txt")
    started = time.monotonic()
    run.finish("FINISHED")
    assert time.monotonic() - started < 10
    assert len(run.warnings) == 1
    server.start()
    assert replay(home / "run").run_id == run.run_id
    assert_complete(server.uri, run.run_id)


@pytest.mark.parametrize("by", ["call", "end"])
def test_a_run_with_patience_is_sent_on_request_or_at_its_end(home, server, by):
    run = TrackedRun(TrackingConfig(uri=server.uri, experiment="trouble"), "a run", home / "run", patience_seconds=200)
    record(run)
    # Without patience, half a second is enough.
    time.sleep(2)
    assert run.run_id == ""
    if by == "call":
        run.hand_over()
        deadline = time.monotonic() + 60
        while not run.run_id:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    begun, ends = time.time() - 300, time.time()
    run.finish("FINISHED")
    assert run.warnings == []
    assert_complete(server.uri, run.run_id)
    # A request takes milliseconds of CPU time, and never more than its duration.
    in_all = run.processor_seconds(begun, time.time())
    assert 0.01 < in_all < time.time() - begun
    assert run.processor_seconds(begun, ends) + run.processor_seconds(ends, time.time()) == pytest.approx(in_all)
    assert run.processor_seconds(begun - 10, begun) == 0


RECORDING = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_tracking_trouble import record, tracked
started = time.monotonic()
run = tracked(Path(sys.argv[2]), sys.argv[3], finish_timeout_seconds=12)
record(run)
print(time.monotonic() - started)
time.sleep(15)
started = time.monotonic()
run.finish("FINISHED")
print(time.monotonic() - started)
print(run.warnings[0], flush=True)
import os
os._exit(0)
"""


def test_a_slow_server_is_waited_for_within_the_limit_and_nothing_is_sent_twice(home, server):
    with slow(server.port, 10) as uri:
        command = [sys.executable, "-c", RECORDING, str(ROOT / "tests" / "e2e"), str(home / "run"), uri]
        variables = environment(home, PYTHONPATH=str(ROOT / "tests"))
        done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    recording, finishing, warning = done.stdout.splitlines()
    assert float(recording) < 5
    assert float(finishing) < 15
    assert "./convoy replay" in warning
    # The same store without the proxy, and without the record of what was accepted, as if responses were lost.
    (home / "run" / "tracking" / "accepted.jsonl").unlink(missing_ok=True)
    done = replay(home / "run", server.uri)
    assert_complete(server.uri, done.run_id)


def test_a_value_that_the_server_rejects_is_a_warning_and_affects_no_other_value(home, server):
    run = tracked(home / "run", server.uri)
    record(run)
    run.metrics({"not allowed?": 1.0, "allowed": 2.0}, 1)
    run.tags({"x" * 300: "a key that is too long"})
    run.finish("FINISHED")
    assert len(run.warnings) == 2
    assert any("not allowed?" in warning for warning in run.warnings)
    found = contents(server.uri, run.run_id)
    assert found[0] == "FINISHED"
    assert "allowed" in found[4]
    assert replay(home / "run").entries == 0
    assert contents(server.uri, run.run_id) == found


def test_a_full_disk_of_the_store_is_a_warning_and_replay_completes_the_run_later(home):
    with small_disk(home / "small", 8) as disk:
        ballast = fill(disk)
        run = tracked(home / "run", f"sqlite:///{disk}/mlflow.db")
        record(run)
        run.finish("FINISHED")
        assert "./convoy replay run" in run.warnings[0]
        with pytest.raises(ConvoyError, match="could not be sent to MLflow"):
            replay(home / "run")
        ballast.unlink()
        done = replay(home / "run")
        assert_complete(f"sqlite:///{disk}/mlflow.db", done.run_id)


def test_a_full_disk_of_the_run_folder_does_not_stop_tracking(home, server):
    with small_disk(home / "small", 1) as disk:
        run = tracked(disk / "run", server.uri)
        fill(disk)
        run.metrics({"train/loss": 0.5}, 1)
        run.finish("FINISHED")
        assert any("No space left on device" in warning for warning in run.warnings)
        assert [step for step, _ in contents(server.uri, run.run_id)[4]["train/loss"]] == [1]


def test_a_run_is_not_replayed_while_its_job_records_it(home, server):
    run = tracked(home / "run", server.uri)
    run.tags({"note": "one"})
    while not run.run_id:
        time.sleep(0.1)
    with pytest.raises(ConvoyError, match="its job is still running"):
        replay(home / "run")
    run.finish("FINISHED")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = hostile.folder(tmp_path_factory.mktemp("home"))
    write_digits(folder)
    return folder


def replayed(home, run_dir, *more, **variables):
    command = [sys.executable, str(ROOT / "jobs" / "replay.py"), str(run_dir), *more]
    return subprocess.run(command, env=environment(home, **variables), capture_output=True, text=True, timeout=100, check=False)


SECRETS = {
    "DATABRICKS_TOKEN": "planted-databricks-token",
    "MLFLOW_TRACKING_PASSWORD": "planted-tracking-password",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-key",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED12",
}


def test_a_training_without_its_server_succeeds_leaks_no_secret_and_is_completed_by_replay(digits, server):
    port = free_port()
    planted = {**SECRETS, "MLFLOW_TRACKING_URI": f"http://ann:planted-uri-password@127.0.0.1:{port}"}
    done = submit(digits, "training.epochs=2", **planted)
    assert done.returncode == 0, done.stdout + done.stderr
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning: MLflow")]
    assert "Traceback" not in done.stdout
    assert warning.startswith(f"warning: MLflow at http://***@127.0.0.1:{port} lacks")
    (run_dir,) = (digits / "runs").glob("*-convnet-2w-*")
    written = [path for path in digits.rglob("*") if path.is_file()]
    texts = {path: path.read_bytes() for path in written} | {"output": (done.stdout + done.stderr).encode()}
    for place, content in texts.items():
        assert b"planted" not in content.lower(), place
    assert b"***" in texts[run_dir / "tracking" / "journal.jsonl"]

    refused = replayed(digits, run_dir)
    assert refused.returncode == 2
    assert "pass the full address with --to" in refused.stderr

    first = replayed(digits, run_dir, "--to", server.uri)
    assert first.returncode == 0, first.stderr
    client = mlflow.MlflowClient(server.uri)
    run_id = json.loads((run_dir / "run.json").read_text())["run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run_id, "train/loss")] == [1, 2]
    models = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")
    assert [(str(model.status), model.name) for model in models] == [("READY", "model")]
    second = replayed(digits, run_dir, "--to", server.uri)
    assert "0 entries sent now" in second.stdout
    assert len(client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")) == 1


def test_a_training_whose_server_dies_meanwhile_succeeds(digits, server):
    with Training(digits, "training.epochs=40", MLFLOW_TRACKING_URI=server.uri) as training:
        training.wait_for("epoch 2/")
        server.kill()
        killed = time.monotonic()
        assert training.end() == 0
        assert time.monotonic() - killed < 60
    assert any(line.startswith("warning: MLflow") and "./convoy replay" in line for line in training.lines)
    assert any(line.startswith("epoch 40/40") for line in training.lines)
