"""A user's way from a trained and registered model to figures, a champion, labels, a server and a scored table."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import hostile

from pipelines.data.formats import libsvm
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.sources import downloads
from pipelines.data.table.row_hashes import hash_images
from pipelines.data.table.schema import ReadingRules
from pipelines.score import model_info
from pipelines.system.reporter import NullReporter

ROOT = Path(__file__).parents[2]
SUBMIT = Path(sys.executable).parent / "spark-submit"
# Only training needs them; users of the model have none of them.
TRAINING_ONLY = ("horovod", "petastorm", "pyspark", "pipelines")
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data, tables, runs, artifacts and outputs lie below names that some library takes for something else."""
    folder = hostile.folder(tmp_path_factory.mktemp("home"))
    downloads.write_substitute(folder / "dbfs" / "convoy" / "mnist-5k", NullReporter())
    return folder


def environment(home):
    return os.environ | {
        "CONVOY_HOME": str(home),
        "CONVOY_DBFS_ROOT": str(home / "dbfs"),
        "CONVOY_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def job(home, name, *arguments, spark=True):
    """Run a job that must succeed and leave no temporary files. Returns its lines and its summary."""
    program = [str(SUBMIT), "--master", "local[2]"] if spark else [sys.executable]
    # Sockets must have short paths.
    summary, temporary = home / f"{name}.json", home.parents[len(hostile.HOME) - 1] / "tmp"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [*program, str(ROOT / "jobs" / name), *arguments, "--summary", str(summary)],
        env=environment(home) | {"TMPDIR": str(temporary)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(temporary.glob("convoy-*")) == []
    return done.stdout.splitlines(), json.loads(summary.read_text())


@pytest.fixture(scope="module")
def trained(home):
    settings = ["model.name=convnet", "training.epochs=2", "training.batch_size_per_worker=64"]
    sets = [argument for setting in settings for argument in ("--set", setting)]
    _, summary = job(
        home, "train_cnn.py", "--config", str(ROOT / "conf/train_cnn.yml"), "--data", "mnist-5k", *sets, "--register", "digits"
    )
    return summary


@pytest.fixture(scope="module")
def client(home, trained):
    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    return mlflow.MlflowClient()


@pytest.fixture(scope="module")
def test_digits(home):
    """The 1,000 test rows of the substitute: images [n, 28, 28, 1] uint8 and labels."""
    text = (home / "dbfs/convoy/mnist-5k/mnist-5k-test.txt").read_bytes()
    chunk = libsvm.parse(text, Rules(shape=(28, 28, 1), value_range=(0, 255), labels=tuple(range(10))))
    return chunk.inputs.reshape(-1, 28, 28, 1), chunk.targets


@pytest.fixture(scope="module")
def in_process(client, trained):
    """The logged model, loaded in this process."""
    loaded = mlflow.pyfunc.load_model(trained["model_uri"])

    def predict(images):
        with contextlib.redirect_stdout(io.StringIO()):
            return loaded.predict(images.astype(np.float32))

    return predict


def test_training_registered_the_model_as_challenger(client, trained):
    assert trained["registered"] == {"name": "digits", "version": "1", "alias": "challenger"}
    assert str(client.get_model_version_by_alias("digits", "challenger").version) == "1"


def test_the_model_records_how_its_rows_were_read_and_which_they_were(client, trained, test_digits):
    info = model_info.read(Path(mlflow.artifacts.download_artifacts(trained["model_uri"])), trained["model_uri"])
    assert (info.picture_form, info.reading) == ("digit", ReadingRules(source="libsvm"))
    record = info.training_rows()
    assert (len(record.hashes), record.is_complete) == (4000, True)
    assert not record.contain(hash_images(test_digits[0])).any()


def test_an_evaluation_reproduces_the_results_of_the_training_as_a_child_of_its_run(home, client, trained):
    _, summary = job(home, "evaluate.py", "--model", "models:/digits@challenger", "--data", "mnist-5k")
    assert summary["table"] == trained["table"]
    assert summary["test"]["rows"] == trained["test"]["rows"] == 1000
    assert summary["test"]["accuracy"] == trained["test"]["accuracy"]
    assert summary["test"]["loss"] == pytest.approx(trained["test"]["loss"], rel=1e-4)
    assert summary["model_uri"] == "models:/digits/1"
    run, parent = client.get_run(summary["run_id"]), client.get_run(trained["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == trained["run_id"]
    assert run.info.experiment_id == parent.info.experiment_id
    for name in ("test/loss", "test/accuracy"):
        assert run.data.metrics[name] == pytest.approx(parent.data.metrics[name], rel=1e-4)
    figures = {Path(file.path).name for file in client.list_artifacts(summary["run_id"], "figures")}
    assert {"confusion_matrix.png", "confusion_matrix.csv", "worst_mistakes.png", "calibration.png", "per_class.csv"} <= figures


def test_a_challenger_becomes_the_first_champion(home, client, trained):
    lines, summary = job(home, "promote.py", "digits", "--table", trained["table"])
    assert summary["promoted"] is True
    assert any("version 1 is now champion: the first champion" in line for line in lines)
    assert str(client.get_model_version_by_alias("digits", "champion").version) == "1"
    assert client.get_model_version("digits", "1").tags["promotion.table_digest"] == summary["table_digest"]


def test_predict_labels_pictures_and_lines_with_the_newest_model(home, trained, test_digits, in_process):
    images, labels = test_digits
    expected = in_process(images[:5])
    (home / "_b:c [1].txt").write_bytes(b"# five digits\n\n" + libsvm.write(images[:5].reshape(5, -1), labels[:5]))
    enlarged = Image.fromarray(255 - images[3, :, :, 0]).resize((140, 140), Image.Resampling.BICUBIC)
    enlarged.save(home / "a[1] %41#?.jpg")
    lines, _ = job(home, "predict.py", "a[1] %41#?.jpg", "_b:c [1].txt", "--json", spark=False)
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert [answer["file"] for answer in answers] == ["a[1] %41#?.jpg", *(f"_b:c [1].txt:{number}" for number in range(3, 8))]
    assert answers[0]["label"] == str(expected[3].argmax())
    predicted = [[answer["probabilities"][str(label)] for label in range(10)] for answer in answers[1:]]
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


def test_a_whole_table_is_scored_by_the_champion(home, client, trained):
    lines, summary = job(home, "score.py", "--model", "models:/digits/1", "--data", trained["table"], "--output", "scored")
    assert any(line.startswith("5,000 rows scored by models:/digits/1 to scored") for line in lines)
    assert (summary["rows"], summary["rejected_rows"], summary["model_version"]) == (5000, 0, "1")
    scored = pq.read_table(home / "scored", columns=["split", "label", "predicted_label", "prediction"]).to_pandas()
    test = scored[scored["split"] == "test"]
    assert (test["label"] == test["predicted_label"]).mean() == pytest.approx(trained["test"]["accuracy"])
    assert (scored["prediction"] == scored["predicted_label"].astype(str)).all()


@pytest.fixture(scope="module")
def server(home, trained, tmp_path_factory):
    """Address of a server of the model, in a process that cannot import the libraries that only training needs."""
    blocked = tmp_path_factory.mktemp("blocked")
    for name in TRAINING_ONLY:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not for users of the model')\n")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "mlflow"), "models", "serve", "--env-manager", "local"),
            *("--model-uri", trained["model_uri"], "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        ],
        env=environment(home) | {"PYTHONPATH": str(blocked)},
        cwd=blocked,
        stdout=subprocess.DEVNULL,
        stderr=(blocked / "log").open("w"),
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 150
        while not _answers(f"{address}/ping"):
            assert process.poll() is None, (blocked / "log").read_text()
            assert time.monotonic() < deadline, (blocked / "log").read_text()
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def posted(server, content):
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["predictions"])


def test_the_server_returns_the_same_probabilities_for_tensors_and_dataframes(server, test_digits, in_process):
    images, labels = test_digits[0][::10], test_digits[1][::10]
    expected = in_process(images)
    assert (expected.argmax(1) == labels).mean() > 0.8
    flat = images.reshape(len(images), -1).tolist()
    for content in (
        {"inputs": images.tolist()},
        {"instances": images.tolist()},
        {"dataframe_split": {"columns": ["image"], "data": [[image] for image in flat]}},
        {"dataframe_records": [{"image": image} for image in flat]},
    ):
        np.testing.assert_allclose(posted(server, content), expected, atol=1e-5)


def test_the_server_rejects_images_of_another_size(server):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        posted(server, {"inputs": np.zeros((1, 14, 14, 1)).tolist()})


def test_the_models_environment_lists_nothing_that_only_training_needs(client, trained):
    folder = Path(mlflow.artifacts.download_artifacts(trained["model_uri"]))
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml", "MLmodel"):
        text = (folder / name).read_text().lower()
        assert not [library for library in TRAINING_ONLY[:3] if library in text]
    assert {line.split("==")[0] for line in (folder / "requirements.txt").read_text().split()} == {
        "mlflow",
        "tensorflow-cpu" if "tensorflow-cpu" in (folder / "requirements.txt").read_text() else "tensorflow",
        "keras",
        "numpy",
    }
