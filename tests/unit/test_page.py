"""The content of a run's page, from events and arrays as written by ranks."""

import csv
import json
import re

import numpy as np
import pytest
from support.synthetic import write_table

from pipelines.config import loader
from pipelines.launch.health import node_metrics
from pipelines.tasks.classification import Classification
from pipelines.track import run_page
from pipelines.track.mlflow.journal import Journal
from pipelines.track.recorder import Recorder
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.events import (
    EpochEnd,
    Event,
    FinalScore,
    FirstStep,
    ModelSaved,
    NodeSample,
    SpoolReader,
    TrainingPlan,
)
from pipelines.track.rundir.figure_data import PredictionWriter
from pipelines.track.tracked_run import TrackedRun

pytestmark = pytest.mark.slow

PLAN = TrainingPlan(
    rows=54000,
    workers=2,
    batch_size_per_worker=64,
    steps=421,
    learning_rate=0.01,
    precision="bfloat16",
    threads=1,
    in_memory=True,
    held_mb=42,
    epoch=0,
    step=0,
)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "table", {"train": 64, "validation": 8, "test": 40})


def config(*settings):
    return loader.load(None, list(settings))


def metrics(epoch):
    return {
        "train/loss": 1 / epoch,
        "train/accuracy": 0.9,
        "validation/loss": 1 / epoch,
        "validation/accuracy": 0.8,
        "epoch_seconds": 4.0,
        "rows_per_second": 1000.0,
    }


def events():
    for rank in (0, 1):
        yield Event(rank, 110.0, PLAN)
        yield Event(rank, 112.0, FirstStep())
        for epoch in (1, 2):
            yield Event(rank, 112.0 + 5 * epoch, EpochEnd(epoch, metrics(epoch), validation_seconds=1.0))
        yield Event(rank, 123.0, FinalScore(0.5, {"accuracy": 0.8}, 40))
    yield Event(0, 125.0, ModelSaved())
    yield Event(1, 113.0, NodeSample(1, {"cpu_utilization_percentage": 50.0}))


def test_a_resumed_job_records_the_epochs_that_the_previous_one_missed(table, tmp_path):
    reported = [event for event in events() if event.kind in ("plan", "epoch")]
    seen = [event for event in reported if event.values.epoch != 2]
    for passed_on, by in ((seen, Recorder.event), (reported, Recorder.remember)):
        run = TrackedRun(config(f"tracking.uri=sqlite:///{tmp_path}/mlflow.db").tracking, "name", tmp_path)
        recorder = Recorder(run, tmp_path, table.manifest, "a title", submitted=100.0)
        for event in passed_on:
            by(recorder, event)
        run.finish("FINISHED")
    entries = [entry.values for entry in Journal(tmp_path).entries() if entry.action == "metrics"]
    assert [entry["step"] for entry in entries if "train/loss" in entry["values"]] == [1, 2]
    speeds = [entry["values"].get("workers/rows_per_second_1") for entry in entries]
    assert [speed for speed in speeds if speed is not None] == [500.0, 500.0]


def test_a_run_started_with_the_former_metric_names_records_no_epoch_twice(table, tmp_path):
    run = TrackedRun(config(f"tracking.uri=sqlite:///{tmp_path}/mlflow.db").tracking, "name", tmp_path)
    run.metrics({"ranks/epoch_seconds_0": 4.0} | metrics(1), 1)
    recorder = Recorder(run, tmp_path, table.manifest, "a title", submitted=100.0)
    for event in events():
        if event.kind in ("plan", "epoch") and event.rank == 0:
            recorder.remember(event)
    run.finish("FINISHED")
    entries = [entry.values for entry in Journal(tmp_path).entries() if entry.action == "metrics"]
    assert [entry["step"] for entry in entries if "train/loss" in entry["values"]] == [1, 2]


def test_run_names_are_unique():
    names = {run_page.name(config("model.name=convnet", "launch.workers=2"), "mnist", run_page.random_key()) for _ in range(20)}
    assert all(re.fullmatch(r"mnist-convnet-2w-[2-9a-z]{4}", name) for name in names)
    assert len(names) == 20


def test_parameters_are_the_settings_that_matter():
    adam, sgd = run_page.parameters(config()), run_page.parameters(config("training.optimizer=sgd", "training.momentum=0.9"))
    assert adam["data.image_shape"] == "28 x 28 x 1"
    assert adam["data.value_range"] == "0 to 255"
    assert adam["training.epochs"] == "10"
    assert "training.momentum" not in adam
    assert sgd["training.momentum"] == "0.9"
    assert not [name for name in adam if "augment" in name or name in ("training.clip_norm", "training.test_views")]
    assert run_page.parameters(config("training.augment_shear=0.1"))["training.augment_shear"] == "0.1"
    assert not [name for name in adam if name.startswith(("tracking.", "checkpoint.")) or name.endswith("_timeout_seconds")]
    assert not {"launch.runs_uri", "ingest.tables_uri", "data.labels", "training.step_epochs"} & set(adam)
    assert {"model.name", "launch.workers", "ingest.seed", "training.seed", "training.base_learning_rate"} <= set(adam)


def test_a_title_notes_that_the_losses_are_not_comparable():
    assert run_page.title(config("model.name=convnet"), "mnist") == "convnet on mnist"
    smoothed = config("model.name=convnet", "training.label_smoothing=0.1")
    assert run_page.title(smoothed, "mnist") == "convnet on mnist (training loss with label smoothing 0.1)"


def test_the_description_summarizes_the_run_and_shows_how_to_use_the_model(table):
    result = run_page.RunOutcome(
        loss=0.122,
        metrics={"accuracy": 0.9942},
        epochs=3,
        precision="bfloat16",
        rows_per_second=9876.5,
        seconds=31.4,
        figures=["timeline"],
    )
    text = run_page.description(config("launch.workers=2", "model.name=convnet"), table.manifest, result)
    assert "`convnet` was trained on **synthetic** (64 train, 8 validation, 40 test rows of 12 x 12 x 1, [table 000" in text
    assert "for 3 epochs by 2 workers in bfloat16" in text
    assert "**99.42 %**" in text
    assert "Where did the time go?" in text
    assert "confusion" not in text
    assert "load_model(" in text
    assert "[n, 12, 12, 1], values 0 to 255" in text
    several = run_page.description(config("training.test_views=5"), table.manifest, result)
    assert ", averaged over 5 views of each image as by the logged model (loss" in several
    early = run_page.description(config("launch.workers=1"), table.manifest)
    assert "with 1 worker." in early


def test_events_become_metrics_of_all_ranks_and_figures_with_their_data(table, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for rank in (0, 1):
        writer = PredictionWriter(20 * rank, 2, Classification().confidence_of_mistakes)
        probabilities = np.random.default_rng(rank).dirichlet(np.ones(4), 20).astype(np.float32)
        writer.add(np.zeros((20, 12, 12, 1), np.uint8), np.arange(20) % 4, probabilities)
        writer.save(run_dir, rank)
    figure_data.save(run_dir, figure_data.EXAMPLES, images=np.zeros((8, 12, 12, 1), np.uint8), labels=np.arange(8) % 4)
    run = TrackedRun(config(f"tracking.uri=sqlite:///{tmp_path}/mlflow.db").tracking, "name", run_dir)
    recorder = Recorder(run, run_dir, table.manifest, "a title", submitted=100.0)
    recorder.phase("set-up", 100.0, 108.0)
    for event in events():
        recorder.event(event)
    names = recorder.figures()
    run.finish("FINISHED")
    assert run.warnings == []

    # There are no kernels of a first layer.
    assert set(names) == {
        *("learning_curves", "confusion_matrix", "per_class", "worst_mistakes", "calibration", "examples", "timeline")
    }
    for name in names:
        assert (run_dir / f"tracking/files/figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(list(csv.reader((run_dir / f"tracking/files/figures/{name}.csv").open()))) > 1
    entries = [json.loads(line) for line in (run_dir / "tracking/journal.jsonl").read_text().splitlines()]
    logged = {}
    for entry in entries:
        if entry["action"] == "metrics":
            logged |= {(name, entry["values"]["step"]): value for name, value in entry["values"]["values"].items()}
    assert logged["workers/rows_per_second_1", 2] == 500.0
    assert logged["workers/epoch_seconds_0", 1] == 4.0
    assert logged["validation/loss", 2] == 0.5
    assert logged["system/node-1/cpu_utilization_percentage", 1] == 50.0
    assert 0 < logged["test/calibration_error", 2] < 1
    params = [entry["values"] for entry in entries if entry["action"] == "params"]
    assert params == [run_page.resolved(PLAN)]
    assert params[0]["resolved.global_batch_size"] == "128"
    timeline = {(row[0], row[1]): row[2:] for row in csv.reader((run_dir / "tracking/files/figures/timeline.csv").open())}
    assert timeline["rank 1", "epoch 2"] == ["17", "4"]
    assert timeline["rank 1", "validation"] == ["21", "1"]
    assert timeline["rank 0", "saving"] == ["23", "2"]
    assert timeline["driver", "set-up"] == ["0", "8"]


def test_a_node_is_sampled_while_its_rank_works(tmp_path, monkeypatch):
    monkeypatch.setattr(node_metrics, "_SHORTEST_SECONDS", 0.05)
    reader, samples = SpoolReader(tmp_path), []
    with node_metrics.sample_node(tmp_path, 3):
        while len(samples) < 3:
            samples += reader.new_events()
    assert {(event.rank, event.kind) for event in samples} == {(3, "system")}
    assert [event.values.sample for event in samples[:3]] == [1, 2, 3]
    measured = samples[0].values.metrics
    assert 0 <= measured["cpu_utilization_percentage"] <= 100
    assert measured["system_memory_usage_megabytes"] > 10
    assert measured["network_receive_megabytes"] >= 0
