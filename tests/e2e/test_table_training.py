"""From a table with text labels to a network that two workers trained, and its use by classic Spark and by Connect."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris

ROOT = Path(__file__).parents[2]
SUBMIT = Path(sys.executable).parent / "spark-submit"
FEATURES = ("sepal length", "sepal.width", "petal length", "petal_width")
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Fisher's 150 irises, 50 of each species, as a Parquet file."""
    folder = tmp_path_factory.mktemp("home")
    iris = load_iris()
    columns = dict(zip(FEATURES, iris.data.T.copy(), strict=True))
    columns |= {"species": [str(iris.target_names[label]) for label in iris.target], "plant": list(range(150))}
    pq.write_table(pa.table(columns), folder / "flowers.parquet")
    return folder


def job(home, name, *arguments, connect=False):
    """Run a job that must succeed, and return its output and its summary."""
    program = [sys.executable] if connect else [str(SUBMIT), "--master", "local[2]"]
    done = subprocess.run(
        [*program, str(ROOT / "jobs" / f"{name}.py"), *arguments, "--summary", str(home / f"{name}.json")],
        env=os.environ
        | {
            "CONVOY_HOME": str(home),
            "CONVOY_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        | ({"SPARK_REMOTE": "local[2]"} if connect else {}),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, json.loads((home / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def trained(home):
    columns = f"{{label: species, id: plant, features: [{', '.join(FEATURES)}]}}"
    settings = [f"data.columns={columns}", "data.classes=3", "data.value_range=auto"]
    recipe = ["training.epochs=40", "training.batch_size_per_worker=8", "training.base_learning_rate=0.01"]
    sets = [argument for setting in settings + recipe for argument in ("--set", setting)]
    config = str(ROOT / "conf" / "mlp.yml")
    return job(home, "train_cnn", "--config", config, "--data", "parquet:flowers.parquet", "--workers", "2", *sets)


def test_two_workers_learn_text_labels_from_a_table_and_the_model_knows_its_columns(home, trained):
    output, summary = trained
    assert "classes in this order: setosa, versicolor, virginica" in output
    assert (summary["dataset"], summary["workers"]) == ("flowers", 2)
    assert summary["test"]["accuracy"] > 0.9
    lines, evaluated = job(home, "evaluate", "--model", summary["model_uri"], "--data", "parquet:flowers.parquet")
    assert evaluated["test"]["rows"] == summary["test"]["rows"]
    assert "are left out" in lines


@pytest.mark.parametrize("connect", [False, True], ids=["classic", "connect"])
def test_a_table_is_scored_in_the_columns_of_the_training(home, trained, connect):
    _, summary = trained
    output = home / f"scored-{connect}"
    location = "parquet:flowers.parquet" if not connect else f"orc:{home}/flowers.orc"
    if connect:
        pytest.importorskip("pyarrow.orc").write_table(pq.read_table(home / "flowers.parquet"), home / "flowers.orc")
    lines, _ = job(home, "score", "--model", summary["model_uri"], "--data", location, "--output", str(output), connect=connect)
    assert f"columns {', '.join(FEATURES)} hold features" in lines
    rows = pq.read_table(output).to_pylist()
    assert sorted(row["plant"] for row in rows) == list(range(150))
    assert sum(row["prediction"] == row["species"] for row in rows) > 135


def test_a_training_on_a_table_is_resumed_from_the_table(home, trained):
    _, summary = trained
    lines, resumed = job(home, "train_cnn", "--resume", summary["run_dir"], "--set", "training.epochs=41")
    assert f"table {summary['table']} (reused)" in lines
    assert (resumed["run_id"], resumed["table"], resumed["epochs"]) == (summary["run_id"], summary["table"], 41)
