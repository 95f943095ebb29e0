"""A model of numbers, from libsvm text to predictions, by the jobs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from support.synthetic import features_and_numbers

ROOT = Path(__file__).parents[2]
SUBMIT = Path(sys.executable).parent / "spark-submit"
pytestmark = pytest.mark.timeout(280)


def job(home, name, *arguments, spark=True):
    program = [str(SUBMIT), "--master", "local[2]"] if spark else [sys.executable]
    environment = {
        "CONVOY_HOME": str(home),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run(
        [*program, str(ROOT / "jobs" / name), *arguments, "--summary", str(home / f"{name}.json")],
        env=os.environ | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((home / f"{name}.json").read_text())


def write(path, rows, seed):
    values, numbers = features_and_numbers(rows, targets=2, seed=seed)
    lines = [
        f"{','.join(map(str, number))} {' '.join(f'{index + 1}:{value}' for index, value in enumerate(row))}\n"
        for number, row in zip(numbers, values, strict=True)
    ]
    path.write_text("".join(lines))
    return numbers


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write(folder / "rows.libsvm", 1500, 1)
    return folder


@pytest.fixture(scope="module")
def trained(home):
    settings = ("data.task=regression", "data.features=6", "data.targets=2", "data.value_range=auto", "data.scaling=standardize")
    # The default configuration is one for digits.
    (home / "run.yml").write_text("model: {name: mlp}\n")
    settings += ("training.epochs=30", "training.base_learning_rate=0.01", "training.batch_size_per_worker=32")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    named = ("--config", str(home / "run.yml"), "--data", str(home / "rows.libsvm"), "--register", "numbers")
    return job(home, "train_cnn.py", *named, "--workers", "2", *flags)


def test_a_training_of_numbers_reports_errors_in_source_units_wherever_a_run_is_shown(home, trained):
    lines, summary = trained
    assert list(summary["test"]) == ["loss", "rmse", "mae", "r2", "rows"]
    assert summary["test"]["r2"] > 0.9
    assert f"rmse {summary['test']['rmse']:.4f}  (loss" in " ".join(lines.split(" " * 6))
    assert all(text in lines for text in ("validation loss", " rmse "))
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    run = client.get_run(summary["run_id"])
    for split in ("train", "validation", "test"):
        assert {f"{split}/{name}" for name in ("loss", "rmse", "mae", "r2")} <= set(run.data.metrics)
    assert "Its RMSE on the test rows is" in run.data.tags["mlflow.note.content"]
    figures = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "figures")}
    assert {"predicted_against_true.png", "residuals.csv", "learning_curves.png"} <= figures
    assert not {"confusion_matrix.png", "examples.png"} & figures


def test_predictions_are_in_source_units(home, trained):
    numbers = write(home / "new.libsvm", 30, 7)
    lines, _ = job(
        home, "predict.py", str(home / "new.libsvm"), "--model", f"{trained[1]['run_dir']}/model", "--json", spark=False
    )
    rows = [json.loads(line)["prediction"] for line in lines.splitlines()]
    found = np.array([[row["target_1"], row["target_2"]] for row in rows])
    errors = np.sqrt(((found - numbers) ** 2).mean())
    assert errors == pytest.approx(trained[1]["test"]["rmse"], rel=0.6)
    assert np.corrcoef(found[:, 1], numbers[:, 1])[0, 1] > 0.95


def test_the_first_champion_of_numbers_is_named_by_its_error(home, trained):
    write(home / "test.libsvm", 200, 8)
    _, promoted = job(home, "promote.py", "numbers", "--data", str(home / "test.libsvm"))
    assert promoted["promoted"]
    assert "the first champion: rmse " in promoted["reason"]
    assert float(promoted["r2"]) > 0.9
