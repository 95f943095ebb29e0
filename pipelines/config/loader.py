"""From YAML and `--set` to a `Config`, and back to YAML.

Precedence: dataclass defaults < file < `--set`. Old names of settings (`pipelines.config.renamed`) are accepted. Unknown keys,
wrong types and broken rules are one `ConfigError` line.
"""

import dataclasses
import difflib
import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from pipelines.config import Config, yaml_text
from pipelines.config.conversion import convert
from pipelines.config.renamed import RENAMED, current_name
from pipelines.config.rules import shown
from pipelines.errors import ConfigError
from pipelines.system import path_rules, paths
from pipelines.system.secrets import MASK, mask_value, masked

_SECTIONS: dict[str, type] = typing.get_type_hints(Config)
# The clone, unless this package is installed elsewhere.
_PROJECT = Path(__file__).resolve().parents[2]


def find(location: str) -> Path:
    """Path of a configuration file. The ready-made ones, such as `conf/convnet.yml`, are found from any home folder."""
    path = paths.to_python(paths.given(location))
    ready_made = _PROJECT / location
    return ready_made if ready_made.is_file() and not path.exists() else path


def load(file: Path | None, overrides: Iterable[str] = (), settings: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Read a configuration.

    Args:
        file: a YAML file of sections and settings, or None for the defaults.
        overrides: `section.key=value` strings; the value is parsed as YAML, but a text without quotes is taken as it is.
        settings: `section.key` to value, as parsed from YAML. They override the file, and `overrides` overrides them.

    Raises:
        ConfigError: names file or flag, key, value, rule and remedy.
    """
    values: dict[str, dict[str, Any]] = {}
    for origin, pairs in ((str(file), _read_file(file) if file is not None else []), ("set", list(settings.items()))):
        _check_names(pairs, origin)
        for key, value in pairs:
            _assign(values, key, value, origin)
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: must be section.key=value, for example --set training.epochs=5")
        _assign(values, key.strip(), value_of(key, raw), "--set")
    _complete_address(values.get("tracking", {}))
    sections = {name: section(**values.get(name, {})) for name, section in _SECTIONS.items()}
    config = Config(**sections)
    config.check()
    _check_paths(config)
    return config


def changed(config: Config, settings: Mapping[str, Any], origin: str) -> Config:
    """A configuration with some settings replaced, checked as by `load`.

    Args:
        config: the configuration to start from.
        settings: `section.key` to value, as parsed from YAML.
        origin: where the settings come from, for errors.

    Raises:
        ConfigError: names key, value, rule and remedy.
    """
    values: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        _assign(values, key, value, origin)
    sections = {name: dataclasses.replace(getattr(config, name), **new) for name, new in values.items()}
    replaced = dataclasses.replace(config, **sections)
    replaced.check()
    return replaced


def type_of(key: str, origin: str) -> Any:
    """The type of setting `section.key`. Raises ConfigError if there is no such setting."""
    section, _, name = current_name(key, origin).partition(".")
    hints = typing.get_type_hints(_SECTIONS[section]) if section in _SECTIONS else {}
    if name not in hints:
        known = [f"{s}.{f.name}" for s, cls in _SECTIONS.items() for f in dataclasses.fields(cls)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"sections are {', '.join(_SECTIONS)}"
        raise ConfigError(f"{origin}: unknown setting {key}; {hint}")
    return hints[name]


def dump(config: Config) -> str:
    """The configuration as YAML, from which `load` restores an equal `Config`."""
    return yaml.safe_dump(_plain(config), sort_keys=False)


def dump_masked(config: Config) -> str:
    """The configuration as YAML for a file. Credentials in it are masked; all other values are as they are.

    `load` takes a masked `tracking.uri` from MLFLOW_TRACKING_URI if that is the same address, and refuses other masked values.
    """
    return yaml.safe_dump(masked(_plain(config), mask_value), sort_keys=False)


def without_credentials(config: Config) -> list[str]:
    """The settings in which `dump_masked` masks something."""
    return [key for key, value in config.flat().items() if isinstance(value, str) and mask_value(value) != value]


def read_yaml(file: Path) -> Mapping[Any, Any]:
    """The mapping in a YAML file; empty for an empty file.

    Raises:
        ConfigError: the file cannot be read, or contains something else.
    """
    try:
        content = yaml_text.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        folder = file.parent
        near = difflib.get_close_matches(file.name, [p.name for p in folder.glob("*.yml")] if folder.is_dir() else [], n=1)
        hint = f"did you mean {folder / near[0]}?" if near else "the ready-made ones are in conf/"
        raise ConfigError(f"{file}: no such configuration file; {hint}") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); it must be a YAML file") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}{yaml_text.problem(error)}") from error
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"{file}: must contain sections such as 'training:' with settings below them")
    return content or {}


def value_of(key: str, raw: str) -> Any:
    """The value in `--set KEY=RAW`. Raises ConfigError if there is no such setting, or the value is not YAML."""
    if type_of(key.strip(), "--set") is str and not raw.lstrip().startswith(("'", '"')):
        # To YAML a path such as {x} is no text, and one such as a #b ends before the comment.
        raw = raw.strip() if key != key.strip() else raw
        return "" if raw == "null" else raw
    try:
        return yaml_text.parse(raw)
    except yaml_text.DuplicateKey as error:
        raise ConfigError(f"--set {key}={raw}: {error.key} occurs twice; leave one out") from error
    # ValueError: a date that does not exist, a number of thousands of digits.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {shown(f'{key}={raw}')}: '{shown(raw)}' is not a YAML value; put quotes around it") from error


def _check_paths(config: Config) -> None:
    """Raises ConfigError for a path that no command takes. What depends on the machine is checked where the path is used."""
    rules = {
        "data.dataset": path_rules.fault,
        "data.test_file": path_rules.fault,
        "ingest.tables_uri": path_rules.table_fault,
        "launch.runs_uri": path_rules.mlflow_fault,
    }
    for key, rule_of in rules.items():
        location = config.flat()[key]
        if key in ("ingest.tables_uri", "launch.runs_uri"):
            paths.to_python(location, f"{key}=")
        # In a URI file:/ these characters are encoded.
        fault = rule_of(location) if not location.startswith("file:") else ""
        if fault:
            raise ConfigError(f"{key}={path_rules.shown(location)}: {fault}")


def _plain(config: Config) -> dict[str, dict[str, Any]]:
    return {
        section: {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
        for section, settings in dataclasses.asdict(config).items()
    }


def _complete_address(tracking: dict[str, Any]) -> None:
    """Leave out an address that was kept without its credentials, if the environment has the whole address."""
    if MASK in tracking.get("uri", "") and tracking["uri"] == mask_value(os.environ.get("MLFLOW_TRACKING_URI", "")):
        tracking["uri"] = ""


def _read_file(file: Path) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for section, settings in read_yaml(file).items():
        if settings is None:
            continue
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{file}: {section}: must be a section with settings below it, not {settings!r}")
        pairs.extend((f"{section}.{key}", value) for key, value in settings.items())
    return pairs


def _check_names(pairs: Iterable[tuple[str, Any]], origin: str) -> None:
    """Raises ConfigError if a setting is given under both its former and its current name."""
    used: dict[str, str] = {}
    for key, _ in pairs:
        other = used.setdefault(current_name(key), key)
        if other != key:
            raise ConfigError(f"{origin}: {other} and {key}: are the same setting; leave out {key if key in RENAMED else other}")


def _assign(values: dict[str, dict[str, Any]], key: str, value: Any, origin: str) -> None:
    target = type_of(key, origin)
    section, _, name = current_name(key).partition(".")
    try:
        values.setdefault(section, {})[name] = convert(value, target)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{origin}: {key}={shown(value)}: must be {error}") from error
