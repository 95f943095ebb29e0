import re
from pathlib import Path

import pytest
from support import hostile

from pipelines import cli
from pipelines.config import Config, loader, renamed, yaml_text
from pipelines.errors import ConfigError
from pipelines.models.registry import NETWORKS, check
from pipelines.sweep import sweep_file

CONF_FILES = sorted((Path(__file__).parents[2] / "conf").glob("*.yml"))


def test_the_resolved_configuration_round_trips(tmp_path):
    config = loader.load(
        None, ["data.image_shape=[8, 8, 1]", "training.base_learning_rate=1e-3", "data.class_names=[a, b]", "data.classes=2"]
    )
    (tmp_path / "config.yml").write_text(loader.dump(config))
    assert loader.load(tmp_path / "config.yml") == config


def test_a_mapping_is_read_from_files_and_flags_and_round_trips(tmp_path):
    mapping = {"width": 32, "rate": 0.5, "layers": [16, 8], "options": {"bias": False, "name": None}}
    file = tmp_path / "c.yml"
    arguments = "{width: 32, rate: 0.5, layers: [16, 8], options: {bias: false, name: null}}"
    file.write_text(f"model:\n  arguments: {arguments}\n")
    config = loader.load(file)
    assert config.model.arguments == mapping
    assert loader.load(None, [f"model.arguments={arguments}"]) == config
    (tmp_path / "kept.yml").write_text(loader.dump_masked(config))
    assert loader.load(tmp_path / "kept.yml") == config
    assert loader.load(file, ["model.arguments={width: 8}"]).model.arguments == {"width": 8}


@pytest.mark.parametrize("file", CONF_FILES, ids=lambda file: file.name)
def test_every_configuration_file_loads_with_a_known_network_and_documents_its_command(file):
    config = loader.load(file)
    check(config.model.name)
    header = file.read_text().split("\n\n")[0]
    assert f"--config conf/{file.name}" in header or file.name == "train_cnn.yml"
    assert "Expected" in header


def test_flags_override_files_and_files_override_defaults(tmp_path):
    file = tmp_path / "c.yml"
    file.write_text("training:\n  epochs: 3\n  seed: 5\n")
    config = loader.load(file, ["training.epochs=4"])
    assert (config.training.epochs, config.training.seed, config.training.optimizer) == (4, 5, "adam")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=3", "unknown setting training.epoch; did you mean training.epochs"),
        ("training.epochs=0", "training.epochs=0: must be at least 1"),
        ("training.epochs=many", "training.epochs=many: must be a whole number"),
        ("training.epochs=2.5", "training.epochs=2.5: must be a whole number"),
        ("data.zero_based=1", "must be true or false"),
        ("training.learning_rate_scaling=cubic", "must be one of linear, square_root, none"),
        ("training.loss=mse", "training.loss=mse: must be a loss of class indices with data.task classification"),
        ("training.loss=categorical_crossentropy", "must be a loss of class indices with data.task classification"),
        (
            "training.callbacks=[EarlyStopping]",
            "training.callbacks=EarlyStopping: must be package.module:Class or path/to/file.py",
        ),
        ("tracking.profile=[5, 3]", "must be first and last step, for example [10, 20], or empty"),
        ("model.frozen=['']", "must be names or patterns of layers, none of them empty"),
        ("model.arguments=[1]", "model.arguments=[1]: must be a mapping, for example {width: 32}"),
        ("model.arguments={1: 2}", "must be a mapping whose keys are texts: put quotes around 1"),
        (
            "model.arguments={since: 2024-01-02}",
            "must be a mapping of numbers, texts, lists and mappings: put quotes around 2024-01-02",
        ),
        ("training.optimizer=rmsprop", "must be one of adam, adamw, sgd, lamb"),
        ("training.momentum=0.9", "must be 0 unless training.optimizer is sgd"),
        ("training.weight_decay=0.1", "must be 0 with training.optimizer adam; adamw is Adam with weight decay"),
        ("training.clip_norm=-1", "training.clip_norm=-1.0: must be at least 1e-06, or 0 for no limit"),
        ("training.average_decay=1", "training.average_decay=1.0: must be at most 0.999999"),
        ("training.seed=-1", "training.seed=-1: must be at least 0"),
        ("training.seed=5000000000", "training.seed=5000000000: must be at most 4,294,967,295"),
        ("training.augment_shift=0.6", "training.augment_shift=0.6: must be at most 0.5"),
        ("training.augment_rotation=-5", "training.augment_rotation=-5.0: must be 0 (none) or more"),
        ("training.augment_scale=1", "training.augment_scale=1.0: must be at most 0.5"),
        ("training.augment_elastic=5", "training.augment_elastic=5.0: must be at most 0.2"),
        (
            "training.accumulation_steps=3",
            "must be a divisor of training.batch_size_per_worker (128), which it divides into equal parts",
        ),
        ("training.compression=float16", "must be none when launch.workers is 1: one worker sends no gradients"),
        ("training.test_views=3", "training.test_views=3: must be 1, 5 or 9"),
        ("data.image_shape=[28, 28]", "height, width, channels"),
        ("data.image_shape=28", "a list of whole numbers"),
        ("data.value_range=[1, 2]", "a range that includes 0"),
        ("data.labels=[1, 1]", "10 different numbers"),
        ("data.class_names=[a, b, c, d, a, f, g, h, i, j]", "must be different names, but 'a' occurs twice"),
        (
            "data.class_names=[no, yes]",
            'a list of texts, but YAML reads no, off and false as false: put quotes around the word, as in "no"',
        ),
        ("data.class_names=[a, on]", 'YAML reads yes, on and true as true: put quotes around the word, as in "yes"'),
        ("data.class_names=[a, ~]", 'YAML reads null as nothing: put quotes around it, as in "null"'),
        ("data.class_names=[cat, 7]", 'YAML reads 7 as a number or date: put quotes around it, as in "7"'),
        (
            "data.class_names=[a, 2026-01-31]",
            'YAML reads 2026-01-31 as a number or date: put quotes around it, as in "2026-01-31"',
        ),
        ("data.class_names=[a, [b]]", "a list of texts, but this is a list: put quotes around it if it is a text"),
        ("data.task=ranking", "data.task=ranking: must be one of classification, regression"),
        ("data.targets=2", "must be 1 with data.task classification, which predicts one of data.classes"),
        ("training.class_weights=some", "must be one of none, balanced, or a list of numbers, for example [1, 2]"),
        ("training.class_weights=[1, a]", "training.class_weights=[1, 'a']: must be a number"),
        ("training.class_weights=[1, 2]", "training.class_weights=[1.0, 2.0]: must be 10 numbers, one for each class"),
        ("training.class_weights=[1, -2]", "must be numbers from 0 to 1e+09, not all 0"),
        ("launch.cycle_milliseconds=0.01", "launch.cycle_milliseconds=0.01: must be 0 (Horovod's own) or 0.1 to 1000"),
        ("launch.max_restarts=-1", "launch.max_restarts=-1: must be 0 (never) or more"),
        ("checkpoint.every_epochs=-1", "checkpoint.every_epochs=-1: must be 0 (none) or more"),
        ("checkpoint.keep=0", "at least 1; checkpoint.every_epochs=0 writes none"),
        ("launch.stall_shutdown_seconds=10", "more than launch.stall_warning_seconds"),
        ("training.epochs", "must be section.key=value"),
        ("nonsense=1", "unknown setting nonsense; sections are data"),
    ],
)
def test_an_invalid_setting_is_a_one_line_error_with_key_value_and_rule(setting, message):
    with pytest.raises(ConfigError) as caught:
        loader.load(None, [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.label_smoothing=0.1", "must be 0 with data.task regression: only the targets of classes can be softened"),
        ("training.augment_shift=0.1", "must be 0 with data.task regression: what changes a picture can change the number"),
        ("training.augment_flip=true", "training.augment_flip=True: must be false with data.task regression"),
        ("training.class_weights=balanced", "must be none with data.task regression: there are no classes"),
        ("data.class_names=[a, b]", "must be left out with data.task regression: it has no classes"),
    ],
)
def test_a_setting_that_only_classes_know_is_refused_for_numbers(setting, message):
    with pytest.raises(ConfigError) as caught:
        loader.load(None, ["data.task=regression", setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["none", "balanced", "[0, 1, 2.5]"])
def test_a_setting_of_several_types_round_trips(tmp_path, value):
    config = loader.load(None, ["data.classes=3", f"training.class_weights={value}"])
    (tmp_path / "kept.yml").write_text(loader.dump(config))
    assert loader.load(tmp_path / "kept.yml") == config


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "tracking: {experiment: no}",
            'must be text, but YAML reads no, off and false as false: put quotes around the word, as in "no"',
        ),
        ("model: {name: 7}", 'must be text, but YAML reads 7 as a number or date: put quotes around it, as in "7"'),
    ],
)
def test_a_word_in_a_file_that_yaml_does_not_read_as_text_is_a_one_line_error(tmp_path, line, message):
    (tmp_path / "run.yml").write_text(line)
    with pytest.raises(ConfigError) as caught:
        loader.load(tmp_path / "run.yml")
    assert str(caught.value).startswith(f"{tmp_path}/run.yml: ")
    assert str(caught.value).endswith(message)


def test_a_text_after_set_is_taken_as_it_is_written():
    config = loader.load(None, ["tracking.experiment=no", "data.dataset=a #b"])
    assert (config.tracking.experiment, config.data.dataset) == ("no", "a #b")


@pytest.fixture
def nothing_announced(monkeypatch):
    monkeypatch.setattr(renamed, "_announced", set())


def test_the_old_name_of_a_setting_works_in_files_and_flags_and_is_reported_once(tmp_path, caplog, nothing_announced):
    (tmp_path / "c.yml").write_text("training:\n  own_operations: false\n")
    assert not loader.load(tmp_path / "c.yml").training.custom_kernels
    assert loader.load(tmp_path / "c.yml", ["training.own_operations=true"]).training.custom_kernels
    assert not loader.load(None, ["training.own_operations=true", "training.custom_kernels=false"]).training.custom_kernels
    assert not loader.changed(Config(), {"training.own_operations": False}, "trial").training.custom_kernels
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/c.yml: training.own_operations is now called training.custom_kernels; the old name still works"
    ]
    with pytest.raises(ConfigError, match=r"--set: training\.own_operations=5: must be true or false"):
        loader.load(None, ["training.own_operations=5"])


def test_every_renamed_setting_maps_to_an_existing_one():
    assert set(renamed.RENAMED.values()) <= set(Config().flat())
    assert not set(renamed.RENAMED) & set(Config().flat())


def test_a_missing_file_is_reported_with_the_nearest_match(tmp_path):
    (tmp_path / "convnet.yml").write_text("")
    with pytest.raises(ConfigError, match=r"convnett\.yml: no such configuration file; did you mean .*convnet\.yml"):
        loader.load(tmp_path / "convnett.yml")


def test_a_ready_made_file_is_found_from_any_home_folder_which_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert loader.find("conf/convnet.yml") == CONF_FILES[0].parent / "convnet.yml"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/convnet.yml").write_text("")
    assert loader.find("conf/convnet.yml") == tmp_path / "conf/convnet.yml"
    assert loader.find("conf/none.yml") == tmp_path / "conf/none.yml"


@pytest.mark.parametrize("name", hostile.NAMES)
def test_a_text_on_the_command_line_is_taken_as_it_is_written(name):
    settings = ("data.dataset", "data.test_file", "tracking.experiment")
    config = loader.load(None, [f"{key}=/a/{name}" for key in settings])
    assert [config.flat()[key] for key in settings] == [f"/a/{name}"] * 3
    if not name.startswith(("'", '"')):
        expected = {"null": ""}.get(name, name)
        assert loader.load(None, [f"tracking.run_name={name}"]).tracking.run_name == expected


@pytest.mark.parametrize(("text", "value"), [('"a # b"', "a # b"), ("'null'", "null"), ("", "")])
def test_quotes_around_a_text_on_the_command_line_are_those_of_yaml(text, value):
    assert loader.load(None, [f"tracking.run_name={text}"]).tracking.run_name == value
    assert loader.load(None, [f"tracking.run_name = {text}"]).tracking.run_name == value


@pytest.mark.parametrize(("name", "reason"), hostile.REFUSED)
@pytest.mark.parametrize("key", ["data.dataset", "data.test_file", "ingest.tables_uri", "launch.runs_uri"])
def test_a_path_that_no_command_takes_is_refused_before_anything_starts(key, name, reason):
    with pytest.raises(ConfigError, match=reason) as failure:
        loader.load(None, [f"{key}=/a/{name}/b"])
    assert str(failure.value).startswith(f"{key}=")
    assert len(str(failure.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "location"),
    [*(("ingest.tables_uri", f"a{c}b") for c in "#?;"), ("launch.runs_uri", "a%41b"), ("ingest.tables_uri", "")],
)
def test_a_folder_that_a_library_would_look_for_elsewhere_is_refused_before_anything_starts(key, location):
    with pytest.raises(ConfigError, match=f"^{key}=.*(contains '|an empty path was given)"):
        loader.load(None, [f"{key}={location}"])


def test_invalid_yaml_is_reported_with_its_line(tmp_path):
    (tmp_path / "c.yml").write_text("training:\n  epochs: [1\n")
    with pytest.raises(ConfigError, match=r"c\.yml line 3: not valid YAML"):
        loader.load(tmp_path / "c.yml")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("training:\n  epochs: 3\ndata:\n  classes: 2\ntraining:\n  seed: 1\n", "line 5: training is also in line 1; put both"),
        ("training:\n  epochs: 3\n  seed: 1\n  'epochs': 4\n", "line 4: epochs is also in line 2; put both"),
        ("training: {epochs: 3, epochs: 4}\n", "line 1: epochs is also in line 1; put both"),
        (
            "training:\n  own_operations: true\n  custom_kernels: false\n",
            ": training.own_operations and training.custom_kernels: are the same setting; leave out training.own_operations",
        ),
    ],
)
def test_a_setting_that_occurs_twice_is_an_error_and_neither_is_dropped(tmp_path, content, line):
    (tmp_path / "c.yml").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(line)):
        loader.load(tmp_path / "c.yml")
    (tmp_path / "sweep.yml").write_text(f"config: {tmp_path}/c.yml\nspace: {{training.epochs: [1, 2]}}\n")
    with pytest.raises(ConfigError, match=re.escape(line)):
        sweep_file.load(tmp_path / "sweep.yml")


def test_a_key_that_occurs_twice_in_a_sweep_or_a_flag_is_an_error(tmp_path):
    (tmp_path / "s.yml").write_text("space:\n  training.epochs: [1, 2]\n  training.seed: [1, 2]\n  training.epochs: [3, 4]\n")
    with pytest.raises(ConfigError, match=r"s\.yml line 4: training\.epochs is also in line 2; put both together"):
        sweep_file.load(tmp_path / "s.yml")
    names = "set: {training.custom_kernels: true}\nspace: {training.own_operations: [true, false]}\n"
    (tmp_path / "s.yml").write_text(names)
    with pytest.raises(ConfigError, match=r"training\.own_operations: is varied by .*, so it must not also be in set"):
        sweep_file.load(tmp_path / "s.yml")
    with pytest.raises(ConfigError, match=r"--set data\.class_names={a: 1, a: 2}: a occurs twice"):
        loader.load(None, ["data.class_names={a: 1, a: 2}"])


def test_values_may_be_merged_from_another_mapping_and_replaced(tmp_path):
    (tmp_path / "c.yml").write_text("training: &most {epochs: 3, seed: 7}\n")
    assert yaml_text.parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")["b"] == {"x": 1, "y": 3}
    assert loader.load(tmp_path / "c.yml").training.seed == 7


def test_a_loss_of_classes_is_rejected_in_a_regression():
    with pytest.raises(ConfigError, match=r"training\.loss=crossentropy: must be a loss of numbers with data\.task regression"):
        loader.load(None, ["data.task=regression", "training.loss=crossentropy"])


def test_early_stopping_without_validation_rows_is_rejected():
    with pytest.raises(ConfigError, match="decided on validation rows"):
        loader.load(None, ["training.early_stopping_patience=2", "ingest.validation_fraction=0"])


def test_an_unknown_network_is_rejected_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean convnet"):
        check("convnett")
    assert "convnet" in NETWORKS


def test_shared_flags_set_their_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(tmp_path))
    (tmp_path / "c.yml").write_text("")
    request = cli.parse(
        ["--data", "dbfs:/some: folder", "--workers", "3", "--summary", str(tmp_path / "s.json")], "test", "c.yml"
    )
    assert request.config.data.dataset == "dbfs:/some: folder"
    assert request.config.launch.workers == 3
    assert request.summary == tmp_path / "s.json"


def test_flat_names_every_setting_once():
    flat = Config().flat()
    assert flat["training.epochs"] == 10
    assert len(flat) > 30
