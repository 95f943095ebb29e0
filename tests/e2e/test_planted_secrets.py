"""Secrets planted wherever a user may have them, and looked for wherever something is written, sent or shown."""

import base64
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import mlflow
import psutil
import pytest
from support.submitting import ROOT, Training, environment, write_digits
from support.tracking_server import Server

from pipelines.track.rundir import layout

pytestmark = pytest.mark.timeout(280)

# What must not turn up. Each begins or ends where no escaping can hide it.
ENVIRONMENT = {
    "PGPASSWORD": "planted-01-password",
    "MYSQL_PWD": "planted-02 with a space",
    "SSHPASS": "planted-03",
    "SMTP_PASS": "planted-04",
    "GITLAB_PAT": "planted-05",
    "HF_TOKEN": 'planted-06-ü-"quoted"',
    "STORAGE_KEY": "planted-07/+==",
    "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=planted-08==;EndpointSuffix=x",
    "DOCKER_AUTH_CONFIG": '{"auths": {"r": {"auth": "planted-09"}}}',
    "DATABASE": "mysql+pymysql://ann:pla/nted-10@p/planted-11@127.0.0.1:1/db",
    # Variables whose names say nothing.
    "NOTE_A": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.planted-12",
    "NOTE_B": "-----BEGIN PRIVATE KEY-----\nplanted13/abc\nplanted14=\n-----END PRIVATE KEY-----",
    "NOTE_C": base64.b64encode(b"planted-15".ljust(64, b"x")).decode(),
    "NOTE_D": "dapi" + "15" * 16,
}
SIGNS = ["nted-0", "nted-1", "nted-2", "planted1", "ZC0xNXh4eHh4", "15" * 16, "16" * 18]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


class Verbose(Training):
    """Shows all log lines, and has its settings in a file."""

    @staticmethod
    def command(home, *settings):
        command = Training.command(home, *settings)
        command[command.index("--config") + 1] = str(home / "mine.yml")
        command[command.index("--data") + 1] = str(home / "token=7")
        return [*command, "--verbose", "--summary", str(home / "summary.json")]


def found(text):
    return [sign for sign in SIGNS if sign.encode() in text]


def test_a_dozen_planted_secrets_are_in_no_file_no_store_no_line_and_no_rank(tmp_path, server):
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    write_digits(home)
    # The server takes any user. In the settings there is a token, too, and the experiment is called like a password.
    uri = f"http://ann:planted-20@127.0.0.1:{server.port}"
    (home / "mine.yml").write_text(
        f"tracking:\n  uri: {uri}\n  experiment: my-experiment\n  run_name: by ghp_{'16' * 18}\ntraining:\n  epochs: 30\n"
    )
    (home / "digits").rename(home / "token=7")
    variables = {
        **ENVIRONMENT,
        "ADMIN_PASSWORD": "my-experiment",
        "MLFLOW_TRACKING_URI": f"http://ann:planted-21@127.0.0.1:{server.port}",
        "TMPDIR": str(scratch),
        "SPARK_LOCAL_DIRS": str(scratch),
    }
    with Verbose(home, **variables) as training:
        training.wait_for("epoch 2/")
        processes = training.processes()
        for process in processes:
            assert found("\n".join(process.cmdline()).encode()) == [], process.name()
        ranks = [process for process in processes if process.name().startswith("convoy-rank-")]
        servers = [process for process in processes if any("forkserver" in part for part in process.cmdline())]
        assert len(ranks) == 2
        assert servers
        for process in (*ranks, *servers):
            # What the process was started with, and for forks what it holds.
            assert found(Path(f"/proc/{process.pid}/environ").read_bytes()) == [], process.name()
            assert not set(process.environ()) & (set(ENVIRONMENT) | {"MLFLOW_TRACKING_URI"})
        for folder, _, names in os.walk(scratch):
            for name in names:
                # Spark removes files while this looks.
                with contextlib.suppress(FileNotFoundError):
                    assert found(Path(folder, name).read_bytes()) == [], name
        assert training.end(120) == 0, training.lines[-20:]
    assert found("\n".join(training.lines).encode()) == []

    (run_dir,) = (home / "runs").iterdir()
    (home / "mine.yml").unlink()
    written = [path for folder in (home, server.folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert run_dir / "tracking/journal.jsonl" in written
    assert server.folder / "server.db" in written
    for path in written:
        assert found(path.read_bytes() + str(path).encode()) == [], path
    # Whoever may read a file, it does not say where the server is, unless he owns it.
    for path in run_dir.rglob("*"):
        if path.is_file() and f"127.0.0.1:{server.port}".encode() in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    # Masking has changed what is shown, and nothing else.
    config = (run_dir / layout.CONFIG_FILE).read_text()
    assert "experiment: my-experiment" in config
    assert f"dataset: {home}/token=7" in config
    summary = json.loads((home / "summary.json").read_text())
    assert summary["tracking_uri"] == f"http://***@127.0.0.1:{server.port}"
    client = mlflow.MlflowClient(server.uri)
    run = client.get_run(summary["run_id"])
    assert client.get_experiment(run.info.experiment_id).name == "my-experiment"
    assert run.info.status == "FINISHED"
    (warning,) = [line for line in training.lines if line.startswith("warning: tracking.uri")]
    assert "is kept without its credentials; give it again (--set tracking.uri) to resume" in warning


def test_the_processes_of_the_page_have_the_address_of_the_store_on_no_command_line(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tools import mlflow_page; from tools.setup.clone import Clone\n"
        "mlflow_page.serve(Clone(Path(sys.argv[1])), [], dict(os.environ))"
    )
    (tmp_path / ".venv").symlink_to(sys.prefix)
    variables = environment(tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/ui.db?password=planted-22", **ENVIRONMENT)
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as page:
        try:
            starts, runs = page.stdout.readline(), page.stdout.readline()
            family = [psutil.Process(page.pid), *psutil.Process(page.pid).children(recursive=True)]
            assert "MLflow at http://127.0.0.1:" in runs
            assert len(family) >= 2
            for process in family:
                assert found("\n".join(process.cmdline()).encode()) == [], process.cmdline()
        finally:
            page.send_signal(signal.SIGINT)
            rest, _ = page.communicate(timeout=60)
    assert found((starts + runs + rest).encode()) == []
    (log,) = (tmp_path / "runs").glob("ui-*.log")
    assert found(log.read_bytes()) == []
    # It was this store.
    assert [path.name for path in tmp_path.glob("ui.db*")] != []
