"""On Databricks a job's file is executed inside a Python process that it does not own and must not exit."""

import subprocess
import sys

import pytest

from pipelines import cli
from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError, ConvoyError, DataError
from pipelines.track.mlflow.follower import default_tracking_uri


@pytest.fixture
def on_databricks(monkeypatch):
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "15.4")


def test_a_successful_job_returns_without_touching_signal_handlers_or_the_process():
    code = (
        "import signal\nfrom pipelines import cli\nbefore = signal.getsignal(signal.SIGTERM)\n"
        "cli.run(lambda arguments: print(*arguments), ['done'])\n"
        "print('still here', signal.getsignal(signal.SIGTERM) == before)"
    )
    environment = {"DATABRICKS_RUNTIME_VERSION": "15.4", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["done", "still here True"]


def test_a_job_that_fails_raises_its_one_line_without_credentials(on_databricks):
    def fail(_arguments):
        raise DataError("f.txt:3: bad, from https://ann:s3cret@host")

    with pytest.raises(ConvoyError, match=r"^f\.txt:3: bad, from https://\*\*\*@host$"):
        cli.run(fail, [])


def test_parameters_that_do_not_parse_are_named_in_an_error_instead_of_an_exit(on_databricks, capsys):
    def refuse(arguments):
        cli.parse(arguments, "A job.", None)

    with pytest.raises(ConfigError, match=r"does not accept these parameters: --epoch 3$"):
        cli.run(refuse, ["--epoch", "3"])
    assert "--epoch" in capsys.readouterr().err


def test_a_cancelled_job_raises_an_interrupt_instead_of_exiting(on_databricks):
    def cancelled(_arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cli.run(cancelled, [])


def test_runs_go_to_the_workspace_unless_another_tracking_uri_is_set(on_databricks, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri(TrackingConfig()) == "databricks"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://own:5000")
    assert default_tracking_uri(TrackingConfig()) == "http://own:5000"
