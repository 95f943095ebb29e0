"""Jobs on a Spark Connect server, which is another process that knows only what jobs send it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import submitting
from support.rank_processes import wait_until_no_rank_is_left
from support.submitting import ROOT, SUBMIT
from support.synthetic import images_and_labels

from pipelines.launch.health import heartbeat

EPOCHS = 40
# A session that the program itself connects, as in a notebook.
FRAME_PROGRAM = f"""
import json, os, sys
import pyarrow as pa, pyarrow.parquet as pq
from pyspark.sql import SparkSession
from support.synthetic import images_and_labels

spark = SparkSession.builder.remote(os.environ.pop("SPARK_REMOTE")).getOrCreate()
images, labels = images_and_labels(600)
pq.write_table(pa.table({{"pixels": images.reshape(600, -1).tolist(), "digit": labels}}), sys.argv[1])
spark.read.parquet(sys.argv[1]).write.mode("overwrite").saveAsTable("digits")

from pipelines import api

columns = {{"image": "pixels", "label": "digit"}}
data = {{"data.image_shape": [12, 12, 1], "data.classes": 4}}
recipe = {{"training.batch_size_per_worker": 16, "training.epochs": {EPOCHS}}}
frame = spark.table("digits")
run = api.train("table:digits", "convnet", workers=2, columns=columns, settings=data | recipe)
evaluation = api.evaluate(run, frame, columns=columns, name="digits_frame")
rows = api.score(run, frame, columns=columns, name="digits_frame").collect()
right = sum(row["predicted_label"] == row["digit"] for row in rows) / len(rows)
print(json.dumps([run.metrics["test/accuracy"], evaluation["test"]["accuracy"], right]))
"""
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    submitting.write_digits(folder)
    return folder


@pytest.fixture(scope="module")
def address(home):
    """Address of a Spark Connect server with two task slots, as its own start script starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"binding.address": "127.0.0.1", "binding.port": str(port)}
    words = [str(SUBMIT), "--master", "local[2]", "--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    words += [word for name, value in settings.items() for word in ("--conf", f"spark.connect.grpc.{name}={value}")]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*words, "spark-internal"], env=submitting.environment(home), cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 100
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            alive = server.poll() is None and time.monotonic() < deadline
            assert alive, (home / "server.log").read_text()
            time.sleep(0.2)
        yield f"sc://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def start(home, address, job, *words, settings=()):
    """Start a job as `./convoy` does with `SPARK_REMOTE`: as a Python program. The client of a server needs no Java."""
    java = {"JAVA_HOME": "/nonexistent"} if address.startswith("sc:") else {}
    sets = [word for setting in settings for word in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / job), *words, *sets],
        env=submitting.environment(home, SPARK_REMOTE=address, **java),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, timeout=150):
    try:
        return process.communicate(timeout=timeout)[0]
    finally:
        process.kill()


def kill_rank_one(run_dirs, job):
    """Kill rank 1 when it has begun its second epoch."""
    while job.poll() is None:
        for run_dir in run_dirs.glob("*"):
            last = heartbeat.read(run_dir / "attempts/001", 1)
            if last is not None and re.match(r"epoch ([2-9]|\d\d), step", last.progress.activity):
                os.kill(last.pid, signal.SIGKILL)
                return
        time.sleep(0.02)


@pytest.fixture(scope="module")
def trained(home, address):
    """Output and summary of a training whose rank 1 was killed in its second epoch."""
    settings = (*submitting.SETTINGS, f"training.epochs={EPOCHS}", "launch.stall_warning_seconds=1")
    words = ("--data", str(home / "digits"), "--workers", "2", "--summary", str(home / "trained.json"))
    process = start(home, address, "train_cnn.py", *words, settings=settings)
    with ThreadPoolExecutor(1) as reading:
        output_later = reading.submit(finish, process)
        kill_rank_one(home / "runs", process)
        output = output_later.result()
    assert process.returncode == 0, output
    return output, json.loads((home / "trained.json").read_text())


def test_a_training_ingests_trains_two_workers_and_restarts_when_one_is_lost(trained):
    output, summary = trained
    (restart,) = [line for line in output.splitlines() if line.startswith("warning: restart 1 of ")]
    assert "rank 1 on " in restart
    assert re.search(r"killed by SIGKILL.*training continues from the checkpoint of epoch \d+", restart)
    assert (summary["workers"], summary["epochs"], summary["rows"]["test"]) == (2, EPOCHS, 100)
    assert summary["test"]["accuracy"] > 0.9
    wait_until_no_rank_is_left()


def test_the_model_scores_every_row_and_counts_those_it_cannot_read(trained, home, address):
    _, summary = trained
    lines = (home / "digits/digits-test.txt").read_text() + "1 200:3\n"
    (home / "new.libsvm").write_text(lines)
    words = ("--model", summary["model_uri"], "--data", str(home / "new.libsvm"), "--output", str(home / "scored"))
    quarantine = ("ingest.on_bad_rows=quarantine", "ingest.max_bad_fraction=0.05")
    process = start(home, address, "score.py", *words, "--summary", str(home / "scored.json"), settings=quarantine)
    output = finish(process)
    assert process.returncode == 0, output
    scored = json.loads((home / "scored.json").read_text())
    assert (scored["rows"], scored["rejected_rows"]) == (100, 1)
    rows = pq.read_table(home / "scored", partitioning=None).to_pylist()
    right = sum(row["predicted_label"] == row["label"] for row in rows)
    assert right / len(rows) == pytest.approx(summary["test"]["accuracy"])


def test_partitions_of_parquet_keep_their_text(trained, home, address):
    _, summary = trained
    (home / "parts/id=007").mkdir(parents=True)
    pq.write_table(pa.table({"image": pa.array([bytes(144)] * 3, pa.binary())}), home / "parts/id=007/a.parquet")
    words = ("--model", summary["model_uri"], "--data", str(home / "parts"), "--output", str(home / "parts-scored"))
    process = start(home, address, "score.py", *words)
    output = finish(process)
    assert process.returncode == 0, output
    assert pq.read_table(home / "parts-scored", partitioning=None)["id"].to_pylist() == ["007"] * 3


def test_the_evaluation_of_the_model_agrees_with_the_training(trained, home, address):
    _, summary = trained
    words = ("--model", summary["model_uri"], "--table", summary["table"], "--summary", str(home / "evaluated.json"))
    process = start(home, address, "evaluate.py", *words)
    output = finish(process)
    assert process.returncode == 0, output
    assert json.loads((home / "evaluated.json").read_text())["test"]["accuracy"] == pytest.approx(summary["test"]["accuracy"])


def test_tables_are_read_on_the_server(home, address):
    images, labels = images_and_labels(60)
    pq.write_table(pa.table({"pixels": images.reshape(60, -1).tolist(), "digit": labels}), home / "rows.parquet")
    settings = (*submitting.SETTINGS[:2], "data.columns={image: pixels, label: digit}")
    words = ("--data", f"parquet:{home}/rows.parquet", "--summary", str(home / "rows.json"))
    process = start(home, address, "ingest.py", *words, settings=settings)
    output = finish(process)
    assert process.returncode == 0, output
    assert sum(json.loads((home / "rows.json").read_text())["rows"].values()) == 60


def test_the_api_works_on_tables_and_frames_of_the_server(home, address):
    """The client only names the table, which lies in the catalog of the server."""
    program = subprocess.run(
        [sys.executable, "-c", FRAME_PROGRAM, str(home / "frame.parquet")],
        env=submitting.environment(home, SPARK_REMOTE=address, JAVA_HOME="/nonexistent", PYTHONPATH=str(ROOT / "tests")),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert program.returncode == 0, program.stdout + program.stderr
    trained, evaluated, scored = json.loads(program.stdout.splitlines()[-1])
    assert trained > 0.9
    assert evaluated == pytest.approx(trained)
    assert scored > 0.9


def test_an_interrupted_training_leaves_no_rank_on_the_server(trained, home, address):
    words = ("--data", str(home / "digits"), "--workers", "2")
    process = start(home, address, "train_cnn.py", *words, settings=(*submitting.SETTINGS, "training.epochs=400"))
    try:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        process.send_signal(signal.SIGINT)
    finally:
        output = finish(process, timeout=60)
    assert process.returncode == 130, output
    wait_until_no_rank_is_left()


def test_more_workers_than_the_servers_slots_are_rejected(home, address):
    process = start(home, address, "doctor.py", "--workers", "3")
    output = finish(process)
    assert process.returncode == 1, output
    assert "launch.workers=3: only 2 task slots are available (Spark Connect, local[2])" in output


def test_a_server_that_does_not_answer_is_one_line_with_the_remedy(home):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"sc://127.0.0.1:{unused.getsockname()[1]}"
        process = start(home, nowhere, "ingest.py", "--data", str(home / "digits"), settings=submitting.SETTINGS[:2])
        output = finish(process)
        misspelt = start(home, "sc:/head", "ingest.py", "--data", str(home / "digits"), settings=submitting.SETTINGS[:2])
        assert "error: SPARK_REMOTE=sc:/head: must be sc://HOST:PORT, local or local[N]" in finish(misspelt)
    assert process.returncode == 1, output
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"error: SPARK_REMOTE={nowhere}: ")
    assert last.endswith("; start the server, or unset SPARK_REMOTE to train without Spark Connect")


def test_without_a_server_a_job_starts_its_own(trained, home):
    """The ranks are then forked on this machine, as in classic local mode. Another server may use the default port."""
    words = ("--data", str(home / "digits"), "--workers", "2")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 15002))
        other.listen()
        process = start(home, "local[2]", "train_cnn.py", *words, settings=(*submitting.SETTINGS, "training.epochs=2"))
        output = finish(process)
    assert process.returncode == 0, output
    assert "Failed to set" not in output
    assert "epoch 2/2" in output
    wait_until_no_rank_is_left()
