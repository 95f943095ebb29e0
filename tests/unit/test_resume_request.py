"""What `--resume` finds, changes and rejects, before anything is started."""

import dataclasses

import pytest
from support.reported import ReportedLines
from support.synthetic import write_libsvm, write_table
from test_checkpoint import STATE, arrays, write

from pipelines import cli
from pipelines.config import Config, loader
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.errors import CheckpointError, ConfigError, LaunchError
from pipelines.launch import orphans, resume
from pipelines.system.reporter import NullReporter
from pipelines.track.rundir.layout import RunRecord, make, write_record
from pipelines.train.checkpoint import store

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


@pytest.fixture
def abandoning(run_dir):
    """A run with checkpoints of epochs 3, 4 and 5, to be continued from the first of them."""
    older = write(run_dir, 3)
    for epoch in (4, 5):
        write(run_dir, epoch)
    return run_dir, older


def contents(run_dir):
    """Every file of a run, by name."""
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_an_older_checkpoint_can_be_chosen_and_the_newer_ones_are_set_aside_when_its_training_begins(abandoning):
    run_dir, older = abandoning
    before = contents(run_dir)
    resumption, lines = prepare("--resume", str(older), "--set", "training.epochs=9")
    assert resumption.checkpoint.path == older
    assert contents(run_dir) == before
    with resume.taken_over(resumption, "new settings", began=lambda: True, reporter=lines):
        assert [path.name[:12] for path in store.available(run_dir)] == ["epoch-000003"]
        assert (run_dir / "config.yml").read_text() == "new settings"
    assert lines[1:] == [f"resume: epoch-{epoch:06d}-step-00000000.json is newer and set aside" for epoch in (5, 4)]
    aside = run_dir / "checkpoints" / "set-aside"
    assert store.verify(aside / "epoch-000004-step-00000000.json").state.epoch == 4


@pytest.mark.parametrize(
    "setting",
    [
        "model.name=mlp",
        "training.optimizer=sgd",
        "training.average_decay=0.9",
        "training.epochs=2",
        "training.epochs=0",
        "training.no_such=1",
    ],
)
def test_a_request_that_is_refused_changes_nothing_in_the_run_folder(abandoning, setting):
    run_dir, older = abandoning
    before = contents(run_dir)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        prepare("--resume", str(older), "--set", setting)
    assert "\n" not in str(caught.value)
    assert contents(run_dir) == before


@pytest.mark.parametrize("error", [CheckpointError("the weights do not match"), KeyboardInterrupt()])
def test_a_training_that_never_began_leaves_the_run_folder_as_it_was(abandoning, error):
    run_dir, older = abandoning
    before = contents(run_dir)
    resumption, lines = prepare("--resume", str(older))
    with pytest.raises(type(error)), resume.taken_over(resumption, "new settings", began=lambda: False, reporter=lines):
        raise error
    assert contents(run_dir) == before
    assert lines[-1] == "resume: epoch-000004-step-00000000.json is put back, because the training did not begin"


def test_a_training_that_failed_after_it_began_keeps_what_it_set_aside_and_its_settings(abandoning):
    run_dir, older = abandoning
    resumption, lines = prepare("--resume", str(older))
    with pytest.raises(LaunchError), resume.taken_over(resumption, "new settings", began=lambda: True, reporter=lines):
        raise LaunchError("lost")
    assert store.newest(run_dir).path == older
    assert (run_dir / "config.yml").read_text() == "new settings"


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


@pytest.mark.parametrize(
    ("had", "setting", "message"),
    [
        (
            {},
            "training.average_decay=0.9",
            "holds no averaged weights (training.average_decay=0); resume with 0, or start a new run",
        ),
        (
            {"training.average_decay": 0.99},
            "training.average_decay=0",
            "holds averaged weights (training.average_decay=0.99); resume with a value above 0, or start a new run",
        ),
        (
            {"training.momentum": 0.9},
            "training.momentum=0",
            "holds momentum (training.momentum=0.9); resume with a value above 0, or start a new run",
        ),
        ({"model.frozen": ["head"]}, "model.frozen=[]", "was trained with ['head']; keep that, or start a new run"),
        ({}, "model.arguments={'width': 8}", "was trained with {}; keep that, or start a new run"),
    ],
)
def test_a_setting_for_which_the_checkpoint_lacks_state_is_rejected_in_one_line(run_dir, had, setting, message):
    settings = STATE.settings | {"training.average_decay": 0, "training.momentum": 0} | had
    path = store.write(run_dir, dataclasses.replace(STATE, settings=settings), arrays(), keep=3)
    with pytest.raises(CheckpointError) as caught:
        prepare("--resume", "latest", "--set", setting)
    assert str(caught.value) == f"{setting}: the checkpoint {path.name} {message}"


def test_fewer_epochs_than_the_checkpoint_has_are_rejected_in_one_line(run_dir):
    inside = write(run_dir, 3, step=4)
    for epochs in (2, 3):
        with pytest.raises(CheckpointError) as caught:
            prepare("--resume", "latest", "--set", f"training.epochs={epochs}")
        assert str(caught.value) == (
            f"training.epochs={epochs}: the checkpoint {inside.name} is already after epoch 3, step 4; resume with more epochs, "
            "or from an earlier checkpoint"
        )
    between = write(run_dir, 3)
    assert prepare("--resume", str(between), "--set", "training.epochs=3")[0].checkpoint.path == between


def test_a_patience_that_is_used_up_already_is_reported(run_dir):
    # The best epoch is the first.
    write(run_dir, 4)
    for patience, lines in ((4, 1), (3, 2), (0, 1)):
        _, reported = prepare("--resume", "latest", "--set", f"training.early_stopping_patience={patience}")
        assert len(reported) == lines, patience
    _, reported = prepare("--resume", "latest", "--set", "training.early_stopping_patience=2")
    assert reported[-1] == (
        "resume: no epoch after 1 was better, so training.early_stopping_patience=2 ends the training here; raise it to train on"
    )


def test_another_table_is_rejected_in_one_line(run_dir, tmp_path):
    write(run_dir, 3)
    other = dataclasses.replace(write_table(tmp_path / "table", {"train": 4}).manifest, key="1" * 64)
    resumption, lines = prepare("--resume", "latest")
    with pytest.raises(
        CheckpointError, match="trained on table 000000000000, this is 111111111111: other files, or other"
    ) as caught:
        resume.check_table(resumption, other, lines)
    assert "\n" not in str(caught.value)


@pytest.fixture
def digits(run_dir, home):
    """A run with a checkpoint on the table of a file, and that file."""
    file = home / "digits.libsvm"
    write_libsvm(file, 40)
    config = loader.load(run_dir / "config.yml", [f"data.dataset={file}", "data.image_shape=[12,12,1]", "data.classes=4"])
    (run_dir / "config.yml").write_text(loader.dump(config))
    source = resolve_source(config.data, NullReporter())
    (key,) = table.possible_keys(config, source, table.fingerprints_of(source))
    path = store.write(run_dir, dataclasses.replace(STATE, table_key=key), arrays(), keep=3)
    return file, path


def test_a_source_with_the_checkpoints_rows_is_accepted_wherever_it_is(digits, home):
    file, _ = digits
    moved = home / "elsewhere.txt"
    file.rename(moved)
    resumption, lines = prepare("--resume", "latest", "--data", str(moved), "--set", "ingest.on_bad_rows=quarantine")
    source, fingerprints = resume.check_source(resumption, lines)
    assert [location for location, _ in source.files] == [str(moved)]
    assert fingerprints == table.fingerprints_of(source)


@pytest.mark.parametrize("change", ["ingest.seed=2", "ingest.validation_fraction=0.2", "data.value_range=[0, 300]", "other rows"])
def test_a_source_or_settings_that_make_another_table_are_rejected_before_spark_starts(digits, run_dir, change):
    file, _ = digits
    settings = ["--set", change]
    if change == "other rows":
        write_libsvm(file, 41)
        settings = []
    before = contents(run_dir)
    resumption, lines = prepare("--resume", "latest", *settings)
    with pytest.raises(
        CheckpointError, match=r"^the run was trained on table \w{12}, this is \w{12}: other files, or other"
    ) as caught:
        resume.check_source(resumption, lines)
    assert "\n" not in str(caught.value)
    assert contents(run_dir) == before


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


def test_another_order_of_rows_within_an_epoch_is_reported():
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in Config().flat().items()}
    state = dataclasses.replace(STATE, step=4, settings=flat, workers=1, batch_size_per_worker=128, steps_per_epoch=5)
    repeated = "resume: the rest of epoch 2 reads its rows in another order, so it may repeat some and leave out others"
    for setting, is_reported in (
        ("training.seed=2", True),
        ("stream.memory_limit_mb=0", True),
        ("stream.shuffle_buffer_rows=5", True),
        ("launch.workers=2", True),
        ("training.batch_size_per_worker=64", True),
        ("training.base_learning_rate=0.1", False),
    ):
        for inside in (state, dataclasses.replace(state, step=0)):
            lines = resume.changes(inside, loader.load(None, [setting]), rows=700)
            assert (repeated in lines) == (is_reported and inside.step > 0), setting


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
