"""What `--resume` finds, changes and rejects, before anything is started."""

import dataclasses

import pytest
from support.reported import ReportedLines
from support.synthetic import write_table
from test_checkpoint import STATE, write

from pipelines import cli
from pipelines.config import Config, loader
from pipelines.errors import CheckpointError, ConfigError, LaunchError
from pipelines.launch import orphans, resume
from pipelines.track.rundir.layout import RunRecord, make, write_record

DEFAULT = "default.yml"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Without the default configuration, which a resumed run does not need."""
    monkeypatch.setenv("CONVOY_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run_dir(home):
    folder = make(home / "runs", "convnet-2w")
    config = loader.load(None, ["model.name=convnet", "launch.workers=2", "training.epochs=7"])
    (folder / "config.yml").write_text(loader.dump(config))
    write_record(folder, RunRecord("abc123", "sqlite:///x"))
    return folder


def prepare(*arguments):
    lines = ReportedLines()
    request = cli.parse(arguments, "test", DEFAULT, cli.add_resume)
    identifier, runs_uri = request.options.resume, request.config.launch.runs_uri
    return resume.prepare(identifier, runs_uri, request.overrides, lines), lines


@pytest.mark.parametrize("identifier", ["abc123", "latest", "the folder", "the checkpoint", "its arrays"])
def test_a_run_continues_with_its_own_settings_as_changed_by_set(run_dir, identifier):
    path = write(run_dir, 3)
    arrays = next(path.parent.glob("*.npz"))
    name = {"the folder": str(run_dir), "the checkpoint": str(path), "its arrays": str(arrays)}.get(identifier, identifier)
    resumption, lines = prepare("--resume", name, "--set", "training.epochs=9")
    assert resumption.run_dir == run_dir
    assert (resumption.config.model.name, resumption.config.launch.workers, resumption.config.training.epochs) == (
        "convnet",
        2,
        9,
    )
    assert resumption.checkpoint.path == path
    assert lines == [f"resume: runs/{run_dir.name} continues after epoch 3"]


def test_an_older_checkpoint_can_be_chosen_and_the_newer_ones_are_set_aside(run_dir):
    older = write(run_dir, 3)
    write(run_dir, 4)
    resumption, lines = prepare("--resume", str(older))
    assert resumption.checkpoint.path == older
    assert lines[0] == "resume: epoch-000004-step-00000000.json is newer and set aside"
    assert (run_dir / "checkpoints" / "set-aside" / "epoch-000004-step-00000000.json").exists()


def test_a_corrupt_checkpoint_is_skipped_with_a_warning(run_dir):
    before = write(run_dir, 3)
    damaged = write(run_dir, 4)
    data = next(damaged.parent.glob("epoch-000004*.npz"))
    data.write_bytes(data.read_bytes()[:-1])
    resumption, lines = prepare("--resume", "latest")
    assert resumption.checkpoint.path == before
    assert lines[0].startswith("warning: checkpoint ")
    assert "is damaged" in lines[0]
    assert lines[0].endswith("; going back to the checkpoint before it")
    assert lines[-1].endswith("continues after epoch 3")


def test_a_run_without_a_checkpoint_starts_again_and_reports_it(run_dir):
    resumption, lines = prepare("--resume", "abc123")
    assert resumption.checkpoint is None
    assert lines == [f"resume: runs/{run_dir.name} has no usable checkpoint; it starts again at epoch 1"]


@pytest.mark.parametrize(("setting", "holds"), [("model.name=mlp", "convnet"), ("training.optimizer=sgd", "adam")])
def test_another_network_or_optimizer_is_rejected_in_one_line(run_dir, setting, holds):
    write(run_dir, 3)
    with pytest.raises(
        CheckpointError, match=rf"^{setting}: the checkpoint epoch-000003-\S+ holds {holds}; start a new run"
    ) as caught:
        prepare("--resume", "latest", "--set", setting)
    assert "\n" not in str(caught.value)


def test_another_table_is_rejected_in_one_line(run_dir, tmp_path):
    write(run_dir, 3)
    other = dataclasses.replace(write_table(tmp_path / "table", {"train": 4}).manifest, key="1" * 64)
    resumption, lines = prepare("--resume", "latest")
    with pytest.raises(
        CheckpointError, match="trained on table 000000000000, this is 111111111111: other files, or other"
    ) as caught:
        resume.check_table(resumption, other, lines)
    assert "\n" not in str(caught.value)


def test_a_configuration_together_with_resume_is_rejected(run_dir, home):
    write(run_dir, 3)
    (home / "other.yml").write_text("")
    with pytest.raises(ConfigError, match="change single ones with --set"):
        prepare("--resume", "latest", "--config", "other.yml")


def test_only_changes_are_reported():
    config = Config()
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in config.flat().items()}
    state = dataclasses.replace(STATE, settings=flat, workers=1, batch_size_per_worker=128, steps_per_epoch=5)
    assert resume.changes(state, config, rows=700) == []
    longer = loader.load(None, ["training.epochs=20", "launch.workers=2", "tracking.experiment=other"])
    first, second = resume.changes(state, longer, rows=700)
    assert first == "resume: changed: training.epochs 10 -> 20, launch.workers 1 -> 2"
    assert second.startswith(
        "resume: global batch 128 -> 256, steps an epoch 5 -> 2; each worker reads other rows, so the weights"
    )


def test_a_run_recorded_with_the_old_name_of_a_setting_continues(run_dir):
    file = run_dir / "config.yml"
    file.write_text(file.read_text().replace("custom_kernels: true", "own_operations: false"))
    resumption, _ = prepare("--resume", "abc123")
    assert not resumption.config.training.custom_kernels
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in resumption.config.flat().items()}
    flat["training.own_operations"] = flat.pop("training.custom_kernels")
    state = dataclasses.replace(STATE, settings=flat)
    assert resume.changes(state, resumption.config, rows=700) == []
    resumption, _ = prepare("--resume", "abc123", "--set", "training.custom_kernels=true")
    assert resume.changes(state, resumption.config, rows=700)[0] == "resume: changed: training.custom_kernels False -> True"


def test_a_run_that_is_still_training_cannot_be_resumed(run_dir):
    write(run_dir, 3)
    orphans.claim(run_dir)
    with pytest.raises(LaunchError, match=rf"runs/{run_dir.name}: process \d+ is still training it"):
        prepare("--resume", "latest")
    orphans.release(run_dir)
    prepare("--resume", "latest")
