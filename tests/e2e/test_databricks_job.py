"""Jobs submitted to a stub workspace that runs them from the built wheel, in a cluster's own session and with its tracking. The
tracking server is a real one at the address of Databricks'."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.jobs import SubmitTask
from support.object_store import object_store
from support.submitting import write_digits
from support.tracking_server import Server
from support.workspace_stub import TOKEN, Workspace

from tools.databricks import wheel
from tools.databricks.follow import follow
from tools.databricks.workspace import connect

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(280)
SMALL = """
data: {image_shape: [12, 12, 1], classes: 4}
model: {name: convnet}
training: {epochs: 1, batch_size_per_worker: 16}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # Databricks' client does not understand the addresses of artifacts served by the server.
    server = Server(tmp_path_factory.mktemp("server"), serves_artifacts=False)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("workspace")
    write_digits(home)
    (home / "small.yml").write_text(SMALL)
    # Run folders are on a volume, which does not support appends.
    with object_store(home / "volume"):
        yield home


@pytest.fixture(scope="module")
def workspace(home, server):
    # MLflow's own registry replaces Unity Catalog: the legacy one of workspaces has no aliases.
    tracking = {"MLFLOW_TRACKING_URI": "databricks", "MLFLOW_REGISTRY_URI": server.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with Workspace(home, DATABRICKS_HOST=server.uri, DATABRICKS_TOKEN=TOKEN, CONVOY_OFFLINE="1", **tracking) as stub:
        yield stub


@pytest.fixture(scope="module")
def submitted(workspace, home):
    """The whole job of the bundle."""
    flags = ["--var", "cores_per_node=1", "--var", "executor_memory=1g", "--poll-seconds", "0.2"]
    folders = {"tables": f"file:{home}/storage/tables", "runs": f"{home}/volume/runs"}
    for name, value in ({"data": home / "digits", "register": "digits"} | folders).items():
        flags += ["--param", f"{name}={value}"]
    # From the workspace's folder of files up to the one that represents the root.
    flags += ["--param", "config=../../../../../../../small.yml"]
    own = {"CONVOY_HOME": str(ROOT), "DATABRICKS_HOST": workspace.host, "DATABRICKS_TOKEN": TOKEN}
    command = [sys.executable, "-m", "tools.databricks", *flags]
    return subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=250, check=False)


def tail(home):
    return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(home.glob("*.log")))


def test_the_job_of_the_bundle_runs_to_its_end_from_the_wheel(submitted, workspace, home):
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr + tail(home)
    for task in ("ingest", "train", "evaluate", "promote"):
        assert f"{task:10} success" in submitted.stdout
    assert "(built in" in workspace.outputs[1001]["logs"]
    assert "is now champion" in workspace.outputs[1004]["logs"]
    assert "takes no appends" in workspace.outputs[1002]["logs"]
    trained, evaluated = sorted(home.glob("volume/runs/*/tracking/journal.jsonl"))
    assert '"FINISHED"' in trained.read_text().splitlines()[-1]
    assert '"FINISHED"' in evaluated.read_text().splitlines()[-1]
    (pipelines,) = home.glob("cluster/lib/python3.*/site-packages/pipelines")
    assert pipelines.is_dir()


def test_states_run_page_and_mlflow_run_are_reported(submitted, workspace, server):
    assert f"run 1000: {workspace.host}/jobs/runs/1000" in submitted.stdout
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("/Shared/[dev ann] convoy-dev")
    training = [run for run in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" not in run.data.tags]
    (run,) = training
    assert f"MLflow run {run.info.run_id}: {workspace.host}/ml/experiments/7/runs/{run.info.run_id}" in submitted.stdout
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] > 0.5
    assert client.get_model_version_by_alias("digits", "champion").run_id == run.info.run_id


def test_the_token_reaches_the_driver_but_no_file(submitted, home, server):
    assert submitted.returncode == 0
    written = [path for path in home.rglob("*") if path.is_file() and "cluster" not in path.relative_to(home).parts]
    assert len(written) > 20
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


def test_the_body_for_runs_submit_runs_and_a_failed_task_names_its_cause(workspace, home, monkeypatch, tmp_path):
    monkeypatch.setenv("DATABRICKS_HOST", workspace.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
    client, user = connect()
    assert user == "ann@example.com"
    written = subprocess.run(
        [sys.executable, "-m", "tools.databricks", "--body", str(tmp_path / "run.json")], cwd=ROOT, timeout=60, check=False
    )
    assert written.returncode == 0
    body = json.loads((tmp_path / "run.json").read_text())
    upload_shared(client, wheel.build(ROOT, tmp_path))
    (task,) = body["tasks"]
    task["new_cluster"]["spark_conf"] = {"spark.task.cpus": "1"}
    parameters = task["spark_python_task"]["parameters"]
    parameters[parameters.index("mnist")] = str(home / "absent.libsvm")
    parameters += ["--set", "data.wait_seconds=0", "--set", f"launch.runs_uri={home}/volume/runs"]
    run_id = client.jobs.submit(run_name=body["run_name"], tasks=[SubmitTask.from_dict(task)]).run_id
    lines = []
    outcome = follow(client, run_id, lines.append, poll_seconds=0.2)
    assert not outcome.succeeded
    assert outcome.reason.startswith(f"task train failed: ConvoyError: data.dataset={home}/absent.libsvm: no such"), outcome
    assert outcome.page == f"{workspace.host}/jobs/runs/{run_id}"


def upload_shared(client: WorkspaceClient, built: Path) -> None:
    """What docs/databricks.md tells the user to upload with Databricks' CLI."""
    for folder in ("jobs", "conf"):
        client.workspace.mkdirs(f"/Workspace/Shared/convoy/{folder}")
    files = [ROOT / "jobs/train_cnn.py", ROOT / "conf/train_cnn.yml", built]
    for source, target in zip(files, ("jobs/train_cnn.py", "conf/train_cnn.yml", built.name), strict=True):
        client.workspace.upload(f"/Workspace/Shared/convoy/{target}", source.read_bytes(), overwrite=True)
