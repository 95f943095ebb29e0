"""`./convoy submit` where things go wrong, against a workspace on loopback. That a job really runs is an end-to-end test."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workspace_stub import TOKEN, Workspace

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def workspace(tmp_path):
    with Workspace(tmp_path) as stub:
        yield stub


def command(*arguments):
    return [sys.executable, str(ROOT / "jobs/submit.py"), "--poll-seconds", "0.1", *arguments]


def environment(host, token=TOKEN):
    own = {name: value for name, value in os.environ.items() if not name.startswith("DATABRICKS_")}
    return own | {"CONVOY_HOME": str(ROOT), "HOME": "/nonexistent", "DATABRICKS_HOST": host, "DATABRICKS_TOKEN": token}


def submit(host, *arguments, token=TOKEN):
    variables = environment(host, token)
    return subprocess.run(command(*arguments), env=variables, capture_output=True, text=True, timeout=80, check=False)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_dry_run_shows_files_and_job_and_asks_nobody(workspace):
    done = submit(workspace.host, "--dry-run", "--target", "prod", "--param", "data=mnist-5k")
    assert done.returncode == 0, done.stderr
    assert "upload jobs/train_cnn.py to /Workspace/Shared/.convoy/convoy/prod/files/jobs/train_cnn.py" in done.stdout
    assert '"spark_version": "15.4.x-cpu-ml-scala2.12"' in done.stdout
    assert done.stdout.endswith('run with {"data": "mnist-5k"}\n')
    assert workspace.calls == []


def test_refused_credentials_are_one_line_that_names_the_variables_and_not_the_token(workspace):
    done = submit(workspace.host, token="dapi-wrong-token")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {workspace.host}: permission denied when the workspace was asked who you are (Invalid access")
    assert "dapi-wrong-token" not in done.stdout + done.stderr


def test_missing_credentials_are_one_line_before_anybody_is_asked():
    done = submit("", token="")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    remedy = "set DATABRICKS_HOST and DATABRICKS_TOKEN, or DATABRICKS_CONFIG_PROFILE to a profile in ~/.databrickscfg"
    assert line.startswith("error: no credentials for a Databricks workspace (")
    assert line.endswith(f"; {remedy}")


def test_a_host_that_nobody_answers_on_is_one_line_within_half_a_minute():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started = time.monotonic()
    done = submit(f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: http://127.0.0.1:{port}: no answer when the workspace was asked who you are (")
    assert line.endswith("; check DATABRICKS_HOST and the network")
    assert time.monotonic() - started < 30


def test_a_cancelled_run_ends_with_exit_code_1_and_says_so(workspace):
    workspace.holds = True
    process = subprocess.Popen(command(), env=environment(workspace.host), stdout=-1, stderr=-1, text=True)
    wait_for(lambda: workspace.runs or process.poll() is not None)
    workspace._cancelled.update(workspace.runs)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert errors.startswith("error: the run is canceled: Run cancelled.; http://127.0.0.1:")
    assert "train      canceled" in output


def test_ctrl_c_cancels_the_run(workspace):
    workspace.holds = True
    process = subprocess.Popen(command(), env=environment(workspace.host), stdout=-1, stderr=-1, text=True)
    wait_for(lambda: any(call.endswith("/runs/get") for call in workspace.calls) or process.poll() is not None)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "is being cancelled" in output
    assert errors == "interrupted by SIGINT\n"
    assert workspace._cancelled == set(workspace.runs)


def test_throttling_and_short_faults_of_the_service_change_nothing_and_the_job_is_started_once(workspace):
    workspace.holds = True
    workspace.troubles = [("scim/v2/Me", 429), ("jobs/run-now", 503), ("runs/get", 503), ("runs/get", 500), ("runs/get", 502)]
    process = subprocess.Popen(command(), env=environment(workspace.host), stdout=-1, stderr=-1, text=True)
    wait_for(lambda: sum(call.endswith("/runs/get") for call in workspace.calls) > 6 or process.poll() is not None)
    workspace._cancelled.update(workspace.runs)
    _, errors = process.communicate(timeout=60)
    assert errors.startswith("error: the run is canceled"), errors
    assert workspace.troubles == []
    assert len(workspace.runs) == 1


def test_a_job_that_is_there_is_brought_up_to_date_and_not_made_twice(workspace):
    for _ in range(2):
        workspace.troubles = [("jobs/run-now", 400)]
        done = submit(workspace.host)
        assert done.returncode == 1
        assert done.stderr == f"error: {workspace.host}: refused when the job was started (out of order)\n"
    assert [job["name"] for job in workspace.jobs.values()] == ["[dev ann] convoy (convoy submit)"]


@pytest.mark.parametrize("flag", ["--var", "--param"])
def test_a_pair_without_a_value_is_refused(flag):
    done = submit("http://127.0.0.1:1", flag, "workers")
    assert (done.returncode, done.stderr) == (2, f"error: {flag} workers: must be NAME=VALUE\n")
