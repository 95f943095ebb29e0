"""Failures of `./convoy submit` against a workspace stub on loopback. An end-to-end test covers a job that really runs."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.jobs import Run, RunLifeCycleState, RunResultState, RunState, RunTask
from support import hostile
from support.workspace_stub import TOKEN, Workspace

from pipelines.errors import ConfigError, LaunchError
from tools.databricks import follow, wheel
from tools.databricks.workspace import mlflow_page

ROOT = Path(__file__).parents[2]
JOB = ROOT / "tools/databricks/__main__.py"
COMMAND = [sys.executable, "-m", "tools.databricks"]
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def workspace(tmp_path):
    with Workspace(tmp_path) as stub:
        yield stub


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return wheel.build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def submit(monkeypatch, built):
    """The job's main, in this process because importing the SDK takes a second. The wheel is built once; that takes two."""
    monkeypatch.setattr(wheel, "build", lambda home, folder: built)
    spec = importlib.util.spec_from_file_location("submit_job", JOB)
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("CONVOY_HOME", str(ROOT))

    def run(host, *arguments, token=TOKEN):
        monkeypatch.setenv("DATABRICKS_HOST", host)
        monkeypatch.setenv("DATABRICKS_TOKEN", token)
        job.main(["--poll-seconds", "0.05", *arguments])

    return run


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cancel_when(workspace, condition):
    """Cancel from another thread, as a user may on the run's page."""

    def cancel():
        wait_for(condition)
        workspace.cancelled.update(workspace.runs)

    workspace.holds = True
    threading.Thread(target=cancel, daemon=True).start()


def test_a_dry_run_shows_files_and_job_without_contacting_the_workspace(workspace, submit, capsys):
    submit(workspace.host, "--dry-run", "--target", "prod", "--param", "data=mnist-5k")
    shown = capsys.readouterr().out
    assert "upload jobs/train_cnn.py to /Workspace/Shared/.convoy/convoy/prod/files/jobs/train_cnn.py" in shown
    assert '"spark_version": "18.x-cpu-ml-scala2.13"' in shown
    assert shown.endswith('run with {"data": "mnist-5k"}\n')
    assert workspace.calls == []


def test_a_body_is_written_to_a_file_of_any_name_or_refused_in_one_line(workspace, submit, tmp_path):
    for name in hostile.NAMES:
        submit(workspace.host, "--body", f"{tmp_path}/{name}")
        assert json.loads((tmp_path / name).read_text())["run_name"] == "convoy-train"
    for name, reason in hostile.REFUSED:
        with pytest.raises(ConfigError, match=reason.replace("/b:", ":")) as failure:
            submit(workspace.host, "--body", f"{tmp_path}/{name}")
        assert str(failure.value).startswith("--body ")
    with pytest.raises(ConfigError, match=r"^--body .*/none/x: cannot be written \(No such file or directory\); name another"):
        submit(workspace.host, "--body", f"{tmp_path}/none/x")
    assert workspace.calls == []


def test_a_dry_run_for_another_runtime_shows_its_image_and_init_script(submit, capsys):
    submit("http://nobody", "--dry-run", "--runtime", "17.3")
    shown = capsys.readouterr().out
    assert '"spark_version": "17.3.x-cpu-ml-scala2.13"' in shown
    assert "upload conf/databricks/init.sh to " in shown
    assert '/conf/databricks/init.sh"' in shown
    assert '"whl": ' in shown


def test_refused_credentials_are_one_line_with_exit_code_1_and_without_the_token(workspace):
    own = {"CONVOY_HOME": str(ROOT), "HOME": "/nonexistent", "DATABRICKS_HOST": workspace.host, "DATABRICKS_TOKEN": "dapi-wrong"}
    done = subprocess.run(
        COMMAND,
        env=own,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {workspace.host}: permission denied while requesting the current user (Invalid access")
    assert "dapi-wrong" not in done.stdout + done.stderr


def test_missing_credentials_are_reported_with_the_variables_to_set(submit):
    remedy = r"set DATABRICKS_HOST and DATABRICKS_TOKEN, or DATABRICKS_CONFIG_PROFILE to a profile in ~/\.databrickscfg$"
    with pytest.raises(ConfigError, match=rf"^no credentials for a Databricks workspace \(.*\); {remedy}"):
        submit("", token="")


def test_a_host_that_does_not_answer_is_reported_within_half_a_minute(submit):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(LaunchError, match=rf"^{host}: no answer while .* \(.*\); check DATABRICKS_HOST and the network$"):
        submit(host)
    assert time.monotonic() - started < 30


def test_a_run_cancelled_by_another_user_is_reported_as_a_failure(workspace, submit, capsys):
    cancel_when(workspace, lambda: workspace.runs)
    with pytest.raises(LaunchError, match=r"^the run is canceled: Run cancelled\.; http://127\.0\.0\.1:\d+/jobs/runs/1000$"):
        submit(workspace.host)
    assert "train      canceled" in capsys.readouterr().out


def test_ctrl_c_cancels_the_run(workspace):
    workspace.holds = True
    own = {"CONVOY_HOME": str(ROOT), "DATABRICKS_HOST": workspace.host, "DATABRICKS_TOKEN": TOKEN}
    process = subprocess.Popen(COMMAND, cwd=ROOT, env=os.environ | own, stdout=-1, stderr=-1, text=True)
    wait_for(lambda: any(call.endswith("/runs/get") for call in workspace.calls) or process.poll() is not None)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "is being cancelled" in output
    assert errors == "interrupted by SIGINT\n"
    assert workspace.cancelled == set(workspace.runs)


def test_throttling_and_short_server_errors_are_retried_and_the_job_is_started_once(workspace, submit):
    workspace.errors = [("scim/v2/Me", 429), ("jobs/run-now", 503), *(("runs/get", status) for status in (503, 500, 502, 504))]
    cancel_when(workspace, lambda: sum(call.endswith("/runs/get") for call in workspace.calls) > 6)
    with pytest.raises(LaunchError, match=r"^the run is canceled"):
        submit(workspace.host)
    assert workspace.errors == []
    assert len(workspace.runs) == 1


def test_an_existing_job_is_updated_and_not_created_twice(workspace, submit):
    for nodes in ("3", "4"):
        workspace.errors = [("jobs/run-now", 400)]
        with pytest.raises(LaunchError, match=rf"^{workspace.host}: refused while starting the job \(out of order\)$"):
            submit(workspace.host, "--var", f"workers={nodes}")
    ((name, nodes),) = [(job["name"], job["job_clusters"][0]["new_cluster"]["num_workers"]) for job in workspace.jobs.values()]
    assert (name, nodes) == ("[dev ann] convoy (convoy submit)", 4)


def test_a_job_of_the_same_name_that_is_another_users_is_left_alone(workspace, submit):
    theirs = {"name": "[dev ann] convoy (convoy submit)", "job_clusters": []}
    workspace.jobs, workspace.owners = {7: theirs}, {7: "ann@elsewhere.example"}
    for _ in range(2):
        workspace.errors = [("jobs/run-now", 400)]
        with pytest.raises(LaunchError, match="refused while starting the job"):
            submit(workspace.host)
    assert workspace.jobs.pop(7) == theirs
    assert [job["name"] for job in workspace.jobs.values()] == [theirs["name"]]


def test_files_that_another_users_job_reads_are_not_overwritten(workspace, submit):
    theirs = {"name": "convoy (convoy submit)", "job_clusters": []}
    workspace.jobs, workspace.owners = {7: theirs}, {7: "bob@example.com"}
    with pytest.raises(
        LaunchError, match=r"job 7 'convoy \(convoy submit\)' belongs to bob@example.com; have its owner submit it"
    ):
        submit(workspace.host, "--target", "prod")
    assert workspace.jobs == {7: theirs}
    assert not any(call.endswith("/workspace/import") for call in workspace.calls)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ([], "/ml/experiments/7/runs/1234"),
        ([("mlflow/runs/get", 404)], "not found in this workspace"),
        ([("mlflow/runs/get", 400)], "the workspace did not say where its page is (out of order)"),
    ],
    ids=["a run", "no run", "an error"],
)
def test_an_error_is_not_taken_for_a_run_that_is_not_there(workspace, monkeypatch, failure, said):
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    client = WorkspaceClient(host=workspace.host, token=TOKEN)
    workspace.errors = failure
    assert mlflow_page(client, "1234").endswith(said)


@pytest.mark.parametrize(
    ("failure", "said"), [([], ""), ([("runs/get-output", 403)], "did not hand over this output (out of order")]
)
def test_an_output_that_the_workspace_does_not_hand_over_is_not_an_empty_one(workspace, monkeypatch, failure, said):
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    client = WorkspaceClient(host=workspace.host, token=TOKEN)
    workspace.errors = failure
    failed = RunState(
        life_cycle_state=RunLifeCycleState.TERMINATED, result_state=RunResultState.FAILED, state_message="Workload failed"
    )
    run = Run(tasks=[RunTask(task_key="train", run_id=7, state=failed)], state=failed)
    outcome = follow._outcome(client, run, failed)
    assert outcome.reason == "task train failed: Workload failed"
    assert said in outcome.details
    assert bool(said) == bool(outcome.details)


@pytest.mark.parametrize("flag", ["--var", "--param"])
def test_a_pair_without_a_value_is_refused(submit, flag):
    with pytest.raises(ConfigError, match=rf"^{flag} workers: must be NAME=VALUE$"):
        submit("http://127.0.0.1:1", flag, "workers")


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "inf", "1e300"])
def test_an_impossible_time_between_requests_is_refused(submit, capsys, seconds):
    with pytest.raises(SystemExit):
        submit("http://127.0.0.1:1", f"--poll-seconds={seconds}")
    assert capsys.readouterr().err.endswith(f"--poll-seconds {float(seconds)}: must be from 0.01 to 3600\n")
