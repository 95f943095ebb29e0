import dataclasses
import json
import os

import numpy as np
import pytest
from support.synthetic import write_table

from pipelines.config import Config, loader
from pipelines.errors import ConfigError
from pipelines.launch import notebook
from pipelines.tasks.classification import Classification
from pipelines.track import finished_run
from pipelines.track.rundir import figure_data, layout
from pipelines.track.rundir import summary as summary_file
from pipelines.track.rundir.events import EpochEnd, SpoolWriter
from pipelines.track.rundir.figure_data import PredictionWriter
from pipelines.track.rundir.summary import ModelScore, SplitRows, StageSeconds, TrainingSummary


def write_run(folder, table, settings=(), epochs=(1, 2), finished=True):
    """Write the files of a training to a run folder."""
    folder.mkdir(parents=True)
    (folder / layout.CONFIG_FILE).write_text(loader.dump(loader.load(None, settings)))
    spool = SpoolWriter(folder / layout.SPOOL_FOLDER, 0)
    for place, epoch in enumerate(epochs):
        names = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
        spool.write(EpochEnd(epoch, dict.fromkeys(names, 1 / (place + 1))))
    spool.close()
    rng = np.random.default_rng(1)
    writer = PredictionWriter(0, 1, Classification().confidence_of_mistakes)
    writer.add(rng.integers(0, 255, (30, 12, 12, 1)).astype(np.uint8), rng.integers(0, 4, 30), rng.dirichlet(np.ones(4), 30))
    writer.save(folder, 0)
    figure_data.save(folder, figure_data.EXAMPLES, images=np.zeros((3, 12, 12, 1), np.uint8), labels=np.array([0, 1, 2]))
    if finished:
        summary = TrainingSummary(
            dataset="synthetic",
            note="",
            table=table.uri,
            run_dir=str(folder),
            rows=SplitRows(60, 0, 30),
            workers=1,
            epochs=len(epochs),
            best_epoch=1,
            precision="float32",
            test=None,
            rows_per_second=1,
            seconds=StageSeconds(1.0, 1.0, 2.0, 1.0, 4.0),
        )
        (folder / layout.SUMMARY_FILE).write_text(json.dumps(summary.as_dict()))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 60, "test": 30})


def test_a_finished_run_is_read_with_its_settings_history_and_figures(tmp_path, table):
    run = finished_run.read(write_run(tmp_path / "run", table, ["training.epochs=2"]))
    assert run.config.training.epochs == 2
    assert [epoch["train/loss"] for epoch in run.history] == [1, 0.5]
    for name in ("learning_curves", "confusion_matrix", "per_class", "worst_mistakes", "calibration", "examples"):
        assert run.figure(name)._suptitle.get_text().endswith("?\n"), name


def test_the_last_report_of_a_repeated_epoch_counts(tmp_path, table):
    run = finished_run.read(write_run(tmp_path / "run", table, epochs=(1, 2, 2, 3)))
    assert [epoch["train/loss"] for epoch in run.history] == [1, pytest.approx(1 / 3), 0.25]


def test_a_figure_that_cannot_be_drawn_is_a_one_line_error(tmp_path, table):
    run = finished_run.read(write_run(tmp_path / "run", table))
    with pytest.raises(ConfigError, match="curves: no such figure; there are learning_curves, "):
        run.figure("curves")
    with pytest.raises(ConfigError, match="no data for first_layer"):
        run.figure("first_layer")


def test_the_newest_accepted_run_is_found(tmp_path, table):
    for age, (name, epochs, finished) in enumerate([("c", 3, False), ("b", 3, True), ("a", 2, True), ("d", 3, True)]):
        folder = write_run(tmp_path / name, table, [f"training.epochs={epochs}"], finished=finished)
        if finished:
            os.utime(folder / layout.SUMMARY_FILE, (1e9 - age, 1e9 - age))
    (tmp_path / "no run").mkdir()
    assert finished_run.newest(tmp_path).run_dir.name == "b"
    assert finished_run.newest(tmp_path, lambda run: run.config.training.epochs == 2).run_dir.name == "a"
    assert finished_run.newest(tmp_path, lambda run: False) is None
    assert finished_run.newest(tmp_path / "nowhere") is None


def test_a_run_of_another_version_with_unknown_settings_is_skipped(tmp_path, table):
    folder = write_run(tmp_path / "run", table)
    (folder / layout.CONFIG_FILE).write_text("training:\n  gone: 1\n")
    assert finished_run.read(folder) is None


def test_a_summary_is_read_as_written_by_any_version(tmp_path, table):
    file = write_run(tmp_path / "run", table) / layout.SUMMARY_FILE
    kept = summary_file.read(file)
    assert kept.test is None
    assert "registered" not in kept.as_dict()
    whole = dataclasses.replace(kept, test=ModelScore(0.5, {"accuracy": 0.9}, 30), registered={"name": "digits"}, run_id="abc")
    summary_file.write(whole.as_dict(), file)
    assert summary_file.read(file) == whole
    values = json.loads(file.read_text())
    assert (values["test"], values["rows"]) == (
        {"loss": 0.5, "accuracy": 0.9, "rows": 30},
        {"train": 60, "validation": 0, "test": 30},
    )
    # An older version did not measure tracking, a newer one may say more.
    del values["tracking_processor_seconds"]
    assert TrainingSummary.from_dict(values | {"new": 1}) == whole
    del values["table"]
    with pytest.raises(ValueError, match="table"):
        TrainingSummary.from_dict(values)
    file.write_text(json.dumps(values))
    assert finished_run.read(file.parent) is None


def test_a_lab_finds_its_settings_from_the_notebooks_folder(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/net.yml").write_text("training:\n  epochs: 7\n  seed: 3\n")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("CONVOY_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "notebooks")
    config = notebook.configuration("conf/net.yml", {"training.epochs": "5", "training.seed": "", "data.dataset": "mnist-5k"})
    assert (config.training.epochs, config.training.seed, config.data.dataset) == (5, 3, "mnist-5k")
    assert config.tracking.experiment == "convoy-labs"
    assert config.ingest.tables_uri == Config().ingest.tables_uri
    with pytest.raises(ConfigError, match=r"^conf/other\.yml: not found in \S+ or above it; open the notebook in a checkout"):
        notebook.configuration("conf/other.yml", {})


def test_on_databricks_a_lab_uses_shared_storage_and_tracks_in_the_workspace(tmp_path, monkeypatch):
    (tmp_path / "net.yml").write_text("")
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "15.4")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    config = notebook.configuration("net.yml", {})
    assert (config.ingest.tables_uri, config.launch.runs_uri) == ("dbfs:/convoy/tables", "dbfs:/convoy/runs")
    assert (config.tracking.uri, config.tracking.experiment) == ("databricks", "/Shared/convoy-labs")
    assert notebook.configuration("net.yml", {}, storage="/Volumes/a/b/c").launch.runs_uri == "/Volumes/a/b/c/runs"


def test_an_equal_run_is_reused_wherever_it_was_recorded(tmp_path, table, monkeypatch, capsys):
    monkeypatch.setattr(notebook, "open_table", lambda config: table)
    config = loader.load(None, [f"launch.runs_uri={tmp_path}", "tracking.experiment=mine"])
    write_run(tmp_path / "run", table, [f"launch.runs_uri={tmp_path}"])
    assert notebook.train(config).run_dir.name == "run"
    assert "trained with exactly these settings" in capsys.readouterr().out
    other = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=9))
    assert notebook._earlier(other, table.uri) is None
    assert notebook._earlier(config, "another table") is None
