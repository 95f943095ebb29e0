"""An interrupted training, or one whose driver is killed, leaves nothing behind, and the next one reports it."""

import json
import signal
import time

import mlflow
import psutil
import pytest
from support.submitting import Training, submit, write_digits

pytestmark = pytest.mark.timeout(280)
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_digits(folder)
    return folder


def wait_until_nothing_is_left(training, seconds):
    started = time.monotonic()
    while training.processes():
        assert time.monotonic() - started < seconds, [process.cmdline() for process in training.processes()]
        time.sleep(0.1)
    return time.monotonic() - started


def wait_until_mlflow_has_the_run(home):
    """MLflow is imported once the ranks have started, and on a busy machine later than the first epochs end.

    At the end of an interrupted job it gets a few seconds, which are for the end of the run.
    """
    deadline = time.monotonic() + 60
    while not (newest_run(home) / "run.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while "train/loss" not in tracked(home, newest_run(home)).data.metrics:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def newest_run(home):
    return max((home / "runs").glob("*-convnet-2w-*"), key=lambda folder: folder.stat().st_mtime)


def tracked(home, run_dir):
    run_id = json.loads((run_dir / "run.json").read_text())["run_id"]
    return mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db").get_run(run_id)


def status(home, run_dir):
    return tracked(home, run_dir).info.status


def test_sigterm_ends_everything_within_ten_seconds_with_sockets_on_loopback_and_no_secret_in_ranks(home, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    variables = {"AWS_SECRET_ACCESS_KEY": "planted-key", "TMPDIR": str(scratch), "SPARK_LOCAL_DIRS": str(scratch)}
    with Training(home, "training.epochs=100000", **variables) as training:
        training.wait_for("epoch 2/")
        wait_until_mlflow_has_the_run(home)
        listening = [
            connection.laddr
            for process in training.processes()
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 4
        assert [address for address in listening if address.ip not in LOOPBACK] == []
        ranks = [process for process in training.processes() if process.name().startswith("convoy-rank-")]
        assert len(ranks) == 2
        for rank in ranks:
            assert "AWS_SECRET_ACCESS_KEY" not in rank.environ()
            assert "planted-key" not in rank.environ().values()
            assert "PYSPARK_GATEWAY_SECRET" not in rank.environ()
        training.signal_all(signal.SIGTERM)
        wait_until_nothing_is_left(training, 10)
        assert training.end() in (143, -signal.SIGTERM)
    assert training.lines[-1].startswith("interrupted by SIG")
    assert any("checkpoint" in line for line in training.lines[-4:])
    assert status(home, newest_run(home)) == "KILLED"
    left = [path.name for path in scratch.iterdir() if not path.name.startswith("hsperfdata")]
    assert left == []


def test_a_second_ctrl_c_ends_everything_at_once(home):
    with Training(home, "training.epochs=100000") as training:
        training.wait_for("epoch 2/")
        training.signal_all(signal.SIGINT)
        time.sleep(0.05)
        training.signal_all(signal.SIGINT)
        wait_until_nothing_is_left(training, 10)
        assert training.end() == 130


def test_a_killed_driver_leaves_no_process_and_the_next_start_reports_and_marks_the_run(home):
    with Training(home, "training.epochs=100000") as training:
        training.wait_for("epoch 2/")
        wait_until_mlflow_has_the_run(home)
        pid = training.driver.pid
        training.driver.kill()
        wait_until_nothing_is_left(training, 30)
        assert training.end() != 0
    run_dir = newest_run(home)
    assert status(home, run_dir) == "RUNNING"
    after = submit(home, "training.epochs=1")
    assert after.returncode == 0, after.stdout + after.stderr
    lines = after.stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("found ") and run_dir.name in line]
    assert lines[at] == f"found runs/{run_dir.name}: its driver (process {pid}) died; the run is now KILLED"
    assert "resume" in lines[at + 1]
    assert status(home, run_dir) == "KILLED"
    assert not (run_dir / "driver.json").exists()


def test_a_killed_jvm_ends_the_driver_and_the_ranks_and_the_run_is_killed(home):
    with Training(home, "training.epochs=100000") as training:
        training.wait_for("epoch 2/")
        wait_until_mlflow_has_the_run(home)
        (jvm,) = [process for process in training.processes() if process.name() == "java"]
        jvm.kill()
        wait_until_nothing_is_left(training, 30)
    assert status(home, newest_run(home)) == "KILLED"
