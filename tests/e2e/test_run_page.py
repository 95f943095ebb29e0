"""The page of a run in a real browser. Screenshots are in test-output/run-page."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from support.browser import Browser
from support.synthetic import write_libsvm

from pipelines.config import loader
from pipelines.launch.training import run_training
from pipelines.track.console.console import TrainingConsole

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "test-output" / "run-page"
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder for this module."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "digits").mkdir()
    write_libsvm(folder / "digits" / "digits-train.txt", 600, seed=1)
    write_libsvm(folder / "digits" / "digits-test.txt", 100, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_HOME", str(folder))
        patch.setenv("CONVOY_OFFLINE", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="module")
def runs(home, spark):
    """Two runs that differ in the number of workers: the summaries."""
    settings = [
        f"data.dataset={home / 'digits'}",
        # Absolute paths: the Spark session of the tests was started with another home folder.
        f"ingest.tables_uri={home / 'tables'}",
        f"launch.runs_uri={home / 'runs'}",
        "data.image_shape=[12, 12, 1]",
        "data.classes=4",
        "model.name=convnet",
        "training.batch_size_per_worker=16",
        "training.epochs=2",
    ]
    configs = [loader.load(None, [*settings, f"launch.workers={workers}"]) for workers in (2, 1)]
    return [run_training(config, TrainingConsole(2, "quiet")) for config in configs]


@pytest.fixture(scope="module")
def runs_page(home, runs):
    """The address of the list of runs, from the user's command."""
    process = subprocess.Popen(
        [str(ROOT / "convoy"), "ui"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"},
        start_new_session=True,
    )
    try:
        for line in process.stdout:
            if "(Ctrl-C ends it)" in line:
                yield re.search(r"http://127\.0\.0\.1:\d+\S*", line).group()
                break
        else:
            pytest.fail("./convoy ui ended without an address")
    finally:
        process.send_signal(signal.SIGINT)
        last = process.communicate(timeout=40)[0]
    assert process.returncode == 0
    assert last.strip() == "convoy: ended"
    # No process of the server's session is left.
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{home}/mlflow.db" not in left


@pytest.fixture(scope="module")
def ui(runs_page):
    return runs_page.partition("/#")[0]


@pytest.fixture(scope="module")
def browser(ui):
    with Browser() as window:
        yield window


@pytest.fixture(scope="module")
def page(ui, runs):
    experiment = mlflow.MlflowClient(runs[0].tracking_uri).get_run(runs[0].run_id).info.experiment_id
    return f"{ui}/#/experiments/{experiment}/runs/{runs[0].run_id}"


def follow(browser, text):
    """Open the target of a link in the description. A click would open it in another tab."""
    address = browser.run(f"return [...document.querySelectorAll('a')].find(e => e.innerText.startsWith('{text}')).href")
    browser.open("about:blank")
    browser.open(address)


def test_the_overview_summarizes_the_run_and_shows_how_to_use_the_model(browser, page, runs):
    browser.open(page)
    accuracy = f"{100 * runs[0].test.accuracy:.2f} %"
    shown = browser.wait_for("convnet was trained on digits", "Logged models", "resolved.global_batch_size")
    assert accuracy in shown
    assert "by 2 workers in" in shown
    assert "540 train, 60 validation, 100 test rows of 12 x 12 x 1" in shown
    assert "digits-t" in shown
    browser.run("[...document.querySelectorAll('button, a')].find(e => e.innerText === 'Show more')?.click()")
    browser.wait_for("Which classes are confused with which?", f'load_model("runs:/{runs[0].run_id}/model")')
    browser.screenshot(SHOTS / "overview.png")


def test_the_ui_opens_the_list_of_trainings_with_accuracy_workers_and_seconds_as_columns(browser, runs_page, runs):
    browser.open("about:blank")
    browser.open(runs_page)
    shown = browser.wait_for("Duration", "test/accuracy", "epoch_seconds", "launch.workers", "2 matching runs")
    for run, workers in zip(runs, (2, 1), strict=True):
        assert re.search(rf"digits-convnet-{workers}w-[2-9a-z]{{4}}", shown)
        assert f"\n{run.test.accuracy:.3g}"[:5] in shown
    browser.screenshot(SHOTS / "runs.png")


def test_charts_begin_with_accuracy_and_loss(browser, page):
    browser.open("about:blank")
    browser.open(f"{page}/model-metrics")
    shown = browser.wait_for("test", "train", "validation", "workers", "Model metrics")
    groups = [line for line in shown.splitlines() if re.fullmatch(r"test|train|validation|workers|data", line)]
    assert groups == ["test", "train", "validation", "workers"]
    browser.screenshot(SHOTS / "charts.png")


def test_metrics_are_charts_by_epoch_including_those_of_each_rank(browser, page):
    browser.open("about:blank")
    browser.open(f"{page}/model-metrics")
    browser.wait_for("train", "validation", "workers")
    # Charts are drawn when they come into view.
    browser.run("[...document.querySelectorAll('*')].filter(e => e.innerText === 'workers').at(-1).scrollIntoView()")
    browser.wait_for("epoch_seconds_0", "epoch_seconds_1", "rows_per_second_1", "learning_rate")
    browser.screenshot(SHOTS / "model-metrics.png")


def test_system_metrics_of_the_node_have_their_own_page(browser, page):
    browser.open(f"{page}/system-metrics")
    browser.wait_for("system/node-0", "cpu_utilization")
    browser.screenshot(SHOTS / "system-metrics.png")


@pytest.mark.parametrize("name", ["confusion_matrix", "first_layer", "timeline"])
def test_the_description_links_to_each_figure(browser, page, name):
    browser.open("about:blank")
    browser.open(page)
    browser.wait_for("convnet was trained on")
    follow(browser, name)
    browser.wait_for(f"figures/{name}.png")
    deadline = time.monotonic() + 30
    while not browser.run("return [...document.images].some(image => image.naturalWidth > 500)"):
        assert time.monotonic() < deadline, "the figure is not shown"
        time.sleep(0.3)
    browser.screenshot(SHOTS / f"{name}.png")


def test_the_data_set_links_to_its_manifest(browser, page):
    browser.open("about:blank")
    browser.open(page)
    browser.wait_for("convnet was trained on")
    follow(browser, "table ")
    browser.wait_for("manifest.json", "schema_version")
    browser.screenshot(SHOTS / "manifest.png")


def test_two_compared_runs_have_the_same_names_and_show_the_differences(browser, ui, runs):
    client = mlflow.MlflowClient(runs[0].tracking_uri)
    first, second = (client.get_run(run.run_id).data for run in runs)
    assert set(first.params) == set(second.params)
    different = {name for name in first.params if first.params[name] != second.params[name]}
    derived = {"resolved.global_batch_size", "resolved.steps_per_epoch", "resolved.peak_learning_rate"}
    assert {"launch.workers"} <= different <= {"launch.workers", "resolved.threads_per_worker"} | derived
    assert set(first.metrics) - set(second.metrics) == {"workers/epoch_seconds_1", "workers/rows_per_second_1"}
    assert not set(second.metrics) - set(first.metrics)
    experiment = client.get_run(runs[0].run_id).info.experiment_id
    ids = json.dumps([run.run_id for run in runs]).replace('"', "%22").replace(" ", "")
    browser.open("about:blank")
    browser.open(f"{ui}/#/compare-runs?runs={ids}&experiments=[%22{experiment}%22]")
    browser.wait_for("Comparing 2 Runs", "launch.workers", "training.epochs")
    browser.screenshot(SHOTS / "compare.png")


def test_the_run_has_one_log_of_all_processes_and_the_data_of_its_figures(runs):
    mlflow.set_tracking_uri(runs[0].tracking_uri)
    client = mlflow.MlflowClient()
    log = Path(client.download_artifacts(runs[0].run_id, "run.log")).read_text()
    assert re.search(r"Z driver INFO .*540 train, 60 validation, 100 test", log)
    assert re.search(r"Z rank 1 epoch 2 INFO pipelines\.train\.callback: .*validation/loss=", log)
    figures = {file.path for file in client.list_artifacts(runs[0].run_id, "figures")}
    names = {"learning_curves", "confusion_matrix", "per_class", "worst_mistakes", "calibration", "first_layer", "examples"}
    assert figures == {f"figures/{name}.{ending}" for name in {*names, "timeline"} for ending in ("png", "csv")}
    model = mlflow.models.get_model_info(runs[0].model_uri)
    assert "[-1, 12, 12, 1]" in str(model.signature.inputs).replace("(", "[").replace(")", "]")


def test_recent_runs_are_listed_in_the_terminal(home, runs):
    done = subprocess.run(
        [str(ROOT / "convoy"), "runs", "--count", "2"],
        capture_output=True,
        text=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"},
        timeout=120,
        check=True,
    )
    header, newest, older = done.stdout.splitlines()[-3:]
    assert header.split() == ["started", "name", "test", "result", "minutes", "workers", "rows/s", "status", "run", "id"]
    name, metric, accuracy = newest.split()[2:5]
    assert re.fullmatch(r"digits-convnet-1w-[2-9a-z]{4}", name)
    assert metric == "accuracy"
    assert accuracy == f"{100 * runs[1].test.accuracy:.2f}"
    assert older.split()[-2:] == ["finished", runs[0].run_id]


def test_the_server_listens_on_loopback_only(ui):
    with urllib.request.urlopen(f"{ui}/health", timeout=20) as answer:
        assert answer.status == 200
    assert ui.startswith("http://127.0.0.1:")
