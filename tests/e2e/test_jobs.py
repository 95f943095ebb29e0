"""Whole jobs, submitted as by a user."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from support.disks import tiny_disk
from support.rank_processes import processes_of_ranks
from support.synthetic import images_and_labels, write_libsvm

ROOT = Path(__file__).parents[2]
SUBMIT = Path(sys.executable).parent / "spark-submit"
SETTINGS = [
    "data.image_shape=[12, 12, 1]",
    "data.classes=4",
    "model.name=convnet",
    "training.batch_size_per_worker=16",
    "ingest.on_bad_rows=quarantine",
]
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "digits").mkdir()
    write_libsvm(folder / "digits" / "digits-train.txt", 600, seed=1)
    with (folder / "digits" / "digits-train.txt").open("a") as file:
        file.write("7 1:1\n")
    write_libsvm(folder / "digits" / "digits-test.txt", 100, seed=2)
    return folder


def command(job, *arguments, settings=()):
    sets = [argument for setting in (*SETTINGS, *settings) for argument in ("--set", setting)]
    return [
        str(SUBMIT),
        "--master",
        "local[2]",
        str(ROOT / "jobs" / job),
        "--config",
        str(ROOT / "conf" / "train_cnn.yml"),
        *sets,
        *arguments,
    ]


def environment(home):
    return os.environ | {
        "CONVOY_HOME": str(home),
        "CONVOY_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def submit(home, job, *arguments, settings=(), timeout=150, prefix=()):
    """Output is on stdout only: spark-submit merges the two streams of its Python process."""
    return subprocess.run(
        [*prefix, *command(job, *arguments, settings=settings)],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(home):
    done = submit(
        home,
        "train_cnn.py",
        "--data",
        str(home / "digits"),
        "--workers",
        "2",
        "--summary",
        str(home / "summary.json"),
        settings=["training.epochs=3"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads((home / "summary.json").read_text())


def client(summary):
    mlflow.set_tracking_uri(summary["tracking_uri"])
    return mlflow.MlflowClient()


def newest_status(summary):
    return client(summary).search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)[0].info.status


def test_the_summary_has_the_keys_of_the_contract(trained):
    _, summary = trained
    assert summary["rows"] == {"train": 540, "validation": 60, "test": 100}
    assert (summary["workers"], summary["epochs"], summary["test"]["rows"]) == (2, 3, 100)
    assert summary["test"]["accuracy"] > 0.9
    assert set(summary["seconds"]) == {"ingest", "launch", "first_step", "train", "total"}
    assert 0 <= summary["tracking_processor_seconds"] < summary["seconds"]["train"]
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    assert summary["precision"] in ("float32", "bfloat16")


def test_the_output_is_plain_and_shows_the_arithmetic(trained):
    done, summary = trained
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("epoch ")][2].startswith("epoch 3/3")
    assert any("2 workers x batch 16 = global batch 32, 16 steps an epoch (28 rows left out" in line for line in lines)
    assert any(summary["run_id"] in line for line in lines)
    assert "\x1b" not in done.stdout
    signs = ("WARN", "INFO", "Warning", "oneDNN")
    noise = [line for line in (done.stdout + done.stderr).splitlines() if any(sign in line for sign in signs)]
    assert noise == []


def test_the_run_is_finished_and_has_parameters_metrics_data_figure_and_configuration(trained):
    _, summary = trained
    run = client(summary).get_run(summary["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == "3"
    assert run.data.metrics["test/accuracy"] == summary["test"]["accuracy"]
    history = client(summary).get_metric_history(summary["run_id"], "validation/loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    names = {entry.dataset.name for entry in run.inputs.dataset_inputs}
    assert names == {"digits-train", "digits-validation", "digits-test"}
    artifacts = {file.path for file in client(summary).list_artifacts(summary["run_id"])}
    assert {"config.yml", "figures", "table"} <= artifacts


def test_a_rejected_line_is_reported_and_recorded_with_the_run(trained, home):
    done, summary = trained
    said = "1 malformed line was set aside (1 label_unknown)"
    assert any(line.startswith(f"warning: {said}, kept in {summary['table']}/_rejected") for line in done.stdout.splitlines())
    assert any(
        f"{home}/digits/digits-train.txt:601: the label '7' is not one of 0, 1, 2, 3" in line for line in done.stdout.splitlines()
    )
    run = client(summary).get_run(summary["run_id"])
    assert run.data.tags["data_rejected"] == said
    assert run.data.params["resolved.rejected_rows"] == "1"


def test_the_model_loads_and_predicts_where_the_training_libraries_cannot_be_imported(trained, tmp_path):
    _, summary = trained
    images, labels = images_and_labels(100, seed=2)
    (tmp_path / "images.json").write_text(json.dumps({"images": images.tolist(), "labels": labels.tolist()}))
    script = tmp_path / "predict.py"
    script.write_text(
        "import sys, json\n"
        "for name in ('horovod', 'petastorm', 'pyspark', 'pipelines'): sys.modules[name] = None\n"
        "import numpy as np, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "data = json.load(open(sys.argv[3]))\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "predicted = model.predict(np.array(data['images'], dtype=np.float32)).argmax(1)\n"
        "print(np.mean(predicted == data['labels']))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), summary["tracking_uri"], summary["model_uri"], str(tmp_path / "images.json")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(summary["test"]["accuracy"])


def test_ingest_alone_finds_the_table_that_training_wrote(trained, home):
    done = submit(home, "ingest.py", "--data", str(home / "digits"), "--summary", str(home / "ingest.json"))
    assert done.returncode == 0, done.stderr
    summary = json.loads((home / "ingest.json").read_text())
    assert summary["built"] is False
    assert summary["table"] == trained[1]["table"]


def test_the_classes_of_spark_are_loaded_from_their_archive(home):
    log = home / "classes.txt"
    variables = environment(home) | {"SPARK_SUBMIT_OPTS": f"-Xlog:class+load:file={log}"}
    done = subprocess.run(
        [str(SUBMIT), "--version"], env=variables, cwd=home, capture_output=True, text=True, timeout=60, check=True
    )
    assert "[warning]" not in done.stdout + done.stderr
    (loaded,) = [line for line in log.read_text().splitlines() if "org.apache.spark.deploy.SparkSubmit " in line]
    assert loaded.endswith("source: shared objects file (top)")


def test_an_invalid_setting_is_one_line_and_exit_code_2(home):
    done = submit(home, "train_cnn.py", settings=["training.epoch=1"], timeout=60)
    assert done.returncode == 2
    assert done.stdout.strip() == "error: --set: unknown setting training.epoch; did you mean training.epochs?"


def test_a_full_disk_is_one_line_exit_code_1_and_nothing_left(home):
    (home / "full").mkdir()
    with tiny_disk(home / "full", kilobytes=48) as prefix:
        settings = [f"ingest.tables_uri={home / 'full' / 'tables'}"]
        done = submit(home, "ingest.py", "--data", str(home / "digits"), settings=settings, prefix=prefix)
        left = [path for path in (home / "full").rglob("*") if path.name != "tables"]
    assert done.returncode == 1, done.stdout + done.stderr
    *before, last = done.stdout.strip().splitlines()
    assert last.startswith(f"error: ingest.tables_uri={home / 'full' / 'tables'}: Spark could not write the table: ")
    assert "No space left on device" in last
    assert all(line.startswith(("ingest: Spark reads ", "warning: ")) for line in before), done.stdout
    assert left == []


def test_a_failed_training_is_one_line_exit_code_1_and_a_failed_run(trained, home):
    done = submit(
        home,
        "train_cnn.py",
        "--data",
        str(home / "digits"),
        settings=["training.batch_size_per_worker=1000", "training.accumulation_steps=500"],
    )
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("error: the table has 540 training rows, too few for a batch in 500 parts on each of 2 workers")
    assert newest_status(trained[1]) == "FAILED"


def test_an_interrupted_training_leaves_no_process_and_a_killed_run(trained, home):
    process = subprocess.Popen(
        command("train_cnn.py", "--data", str(home / "digits"), settings=["training.epochs=10000"]),
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    # spark-submit ends with its JVM; the driver needs a moment longer to end the run.
    deadline = time.monotonic() + 15
    while processes_of_ranks() or newest_status(trained[1]) == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert newest_status(trained[1]) == "KILLED"
