"""The JSON Schema of the settings says what the loader says."""

import json
from pathlib import Path

import jsonschema
import pytest
from test_config_extremes import CASES

from pipelines.config import Config, json_schema, loader, yaml_text
from pipelines.config.renamed import RENAMED
from pipelines.errors import ConfigError
from tools import schema
from tools.completion.complete import OPTIONS, SCHEMA

ROOT = Path(__file__).parents[2]
CONF_FILES = sorted([*(ROOT / "conf").glob("*.yml"), *(ROOT / "examples").glob("*/config.yml")])
# Rules between settings, and those for the items of lists and for paths, are the loader's alone.
BEYOND_THE_SCHEMA = (
    "data.classes",
    "ingest.validation_fraction",
    "launch.min_workers",
    "launch.stall_shutdown_seconds",
    "launch.stall_warning_seconds",
    "training.accumulation_steps",
    "training.batch_size_per_worker",
    "training.momentum",
    "training.weight_decay",
)


@pytest.fixture(scope="module")
def validator():
    content = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_command_writes_the_files_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA", tmp_path / "schema.json")
    monkeypatch.setattr(schema, "OPTIONS", tmp_path / "options.json")
    schema.main([])
    for file in (SCHEMA, OPTIONS):
        assert file.read_text() == (tmp_path / file.name).read_text(), f"run ./convoy schema: {file} is not up to date"


def test_every_setting_is_in_the_schema_with_its_default_and_is_explained(validator):
    properties = validator.schema["properties"]
    flat = {f"{section}.{name}": about for section in properties for name, about in properties[section]["properties"].items()}
    assert set(flat) == {*Config().flat(), *RENAMED}
    for key, value in Config().flat().items():
        assert flat[key]["default"] == json.loads(json.dumps(value))
    unexplained = {key for key, about in flat.items() if "description" not in about}
    # Their names say it.
    assert unexplained <= {
        "data.classes",
        "training.epochs",
        "training.optimizer",
        "training.schedule",
        "training.label_smoothing",
    }


@pytest.mark.parametrize("file", CONF_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_configuration_file_names_the_schema_and_is_valid_by_it(validator, file):
    (named,) = [line for line in file.read_text().splitlines() if line.startswith("# yaml-language-server: $schema=")]
    assert (file.parent / named.partition("=")[2]).resolve() == SCHEMA
    validator.validate(yaml_text.parse(file.read_text()))


def test_the_defaults_are_valid_by_it(validator):
    validator.validate(yaml_text.parse(loader.dump(Config())))


@pytest.mark.parametrize(
    "text",
    [
        "training: {epochs: 0}",
        "training: {epochs: many}",
        "training: {epochs: 2.5}",
        "training: {epoch: 3}",
        "training: {optimizer: rmsprop}",
        "training: {test_views: 3}",
        "training: {clip_norm: 1.0e-9}",
        "data: {zero_based: 1}",
        "data: {image_shape: 28}",
        "data: {class_names: [cat, 7]}",
        "tracking: {experiment: no}",
        "launch: {cycle_milliseconds: 0.01}",
        "trainig: {epochs: 3}",
        "training: 5",
    ],
)
def test_what_the_loader_refuses_in_a_file_an_editor_marks(validator, tmp_path, text):
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ConfigError):
        loader.load(tmp_path / "c.yml")
    assert not validator.is_valid(yaml_text.parse(text))


@pytest.mark.parametrize("text", ["training:", "training: {clip_norm: 0}", "training: {own_operations: false}", ""])
def test_what_the_loader_takes_in_a_file_an_editor_does_not_mark(validator, tmp_path, text):
    (tmp_path / "c.yml").write_text(text)
    loader.load(tmp_path / "c.yml")
    assert validator.is_valid(yaml_text.parse(text))


def test_loader_and_schema_agree_on_the_extremes_of_every_number(validator):
    """The ranges are those of the rules: a rule that the schema does not know would show here."""
    compared = 0
    for key, text in CASES:
        section, _, name = key.partition(".")
        try:
            values = yaml_text.parse(text)
        except ValueError:
            continue
        # JSON has no other numbers.
        if not all(
            isinstance(each, int | float) and abs(each) < 1e300 for each in (values if isinstance(values, list) else [values])
        ):
            continue
        valid = validator.is_valid({section: {name: values}})
        try:
            loader.load(None, [f"{key}={text}"])
        except ConfigError:
            assert not valid or isinstance(values, list) or key in BEYOND_THE_SCHEMA, (
                f"{key}={text} is refused by the loader alone"
            )
        else:
            assert valid, f"{key}={text} is refused by the schema alone"
        compared += 1
    assert compared > 400


def test_a_type_that_the_schema_cannot_express_is_noticed():
    with pytest.raises(KeyError):
        json_schema._type(bytes)
