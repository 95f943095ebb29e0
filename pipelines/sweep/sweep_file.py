"""The sweep file: search space, search method and objective. Validated as strictly as a configuration.

search: bayesian                  grid, random or bayesian (Optuna's TPE)
config: conf/convnet.yml          the base configuration; `configs: [a.yml, b.yml]` makes it an axis
set: {training.epochs: 3}         settings of all trials
space:                            the axes: a list of values, or a range
  training.base_learning_rate: {low: 1e-4, high: 1e-2, log: true}
  training.optimizer: [adam, sgd]
points:                           an axis of settings that move together
  batch:
    "128": {training.batch_size_per_worker: 128, training.base_learning_rate: 0.01}
    "256": {training.batch_size_per_worker: 256, training.base_learning_rate: 0.02}
trials: 20                        number of trials of a random or bayesian search
pruning: median                   stops unpromising trials early
"""

import difflib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.config import Config, loader, yaml_text
from pipelines.config.conversion import convert
from pipelines.config.renamed import current_name
from pipelines.config.rules import rule, shown
from pipelines.errors import ConfigError
from pipelines.sweep import space
from pipelines.sweep.axes import read_axes
from pipelines.sweep.plan import FIXED, Sweep, SweepConfig
from pipelines.sweep.space import CONFIGURATION, Axis, Choices
from pipelines.system import atomic
from pipelines.system.secrets import mask_value, masked
from pipelines.track.rundir import layout

_CONFIGS_FOLDER = "configs"
_MAX_POINTS = 1_000


def load(file: Path, overrides: Iterable[str] = ()) -> Sweep:
    """Read a sweep file, and validate every value in it and every point of a grid.

    Args:
        file: YAML.
        overrides: `section.key=value` texts for all trials; they take precedence over the file.

    Raises:
        ConfigError: names file, key, value, rule and remedy.
    """
    content = dict(loader.read_yaml(file))
    hints = typing.get_type_hints(SweepConfig)
    known = [*hints, "config", "configs", "set", "space", "points", "seeds"]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            raise ConfigError(f"{file}: unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"keys are {known}"))
    settings = {key: _convert(file, key, content[key], hints[key]) for key in hints if key in content}
    settings.setdefault("name", file.stem)
    try:
        config = SweepConfig(**settings)
        axes = read_axes(content, numbers=config.search != "grid")
        overrides = tuple(overrides)
        _check_keys(axes, _settings(content), overrides)
        bases = {path.stem: _base(path, content, overrides) for path in _files(content)}
        if "configs" in content:
            axes = (Choices(CONFIGURATION, tuple(space.Option(name) for name in bases)), *axes)
    except ConfigError as error:
        raise ConfigError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error
    sweep = Sweep(config=config, bases=bases, axes=axes, text=file.read_text(encoding="utf-8"))
    _check_points(sweep, file)
    return sweep


def save(sweep: Sweep, folder: Path) -> None:
    """Save a copy from which `load` restores the same sweep, even if its original files change."""
    configs = folder / _CONFIGS_FOLDER
    configs.mkdir(parents=True, exist_ok=True)
    for name, base in sweep.bases.items():
        atomic.write(configs / f"{name}.yml", loader.dump_masked(base), private=True)
    content: dict[str, Any] = dict(yaml_text.parse(sweep.text) or {})
    content = {key: value for key, value in content.items() if key not in ("config", "configs", "set")}
    files = [str((configs / f"{name}.yml").absolute()) for name in sweep.bases]
    content |= {"name": sweep.config.name}
    content |= {"configs": files} if any(axis.name == CONFIGURATION for axis in sweep.axes) else {"config": files[0]}
    atomic.write(folder / layout.SWEEP_FILE, yaml.safe_dump(masked(content, mask_value), sort_keys=False), private=True)


def _convert(file: Path, key: str, value: Any, value_type: Any) -> Any:
    try:
        return convert(value, value_type)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{file}: {key}={shown(value)}: must be {error}") from error


def _files(content: Mapping[str, Any]) -> list[Path]:
    if "config" in content and "configs" in content:
        raise ConfigError("config and configs: only one of them may be present; configs makes the file an axis")
    names = content.get("configs", [content.get("config", "conf/train_cnn.yml")])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"configs={names}: must be a list of configuration files, for example [conf/mlp.yml, conf/convnet.yml]")
    files = [loader.find(name) for name in names]
    stems = [file.stem for file in files]
    rule(len(set(stems)) == len(stems), "configs", stems, "files whose names differ")
    return files


def _settings(content: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = content.get("set") or {}
    if not isinstance(settings, Mapping):
        raise ConfigError(f"set={settings}: must contain settings, for example {{training.epochs: 3}}")
    return settings


def _base(path: Path, content: Mapping[str, Any], overrides: tuple[str, ...]) -> Config:
    return loader.load(path, overrides, _settings(content))


def _check_keys(axes: Iterable[Axis], settings: Mapping[str, Any], overrides: tuple[str, ...]) -> None:
    """Raises ConfigError if a setting is set in two places."""
    set_by = dict.fromkeys(map(current_name, settings), "set")
    flags = dict.fromkeys((current_name(text.partition("=")[0].strip()) for text in overrides), "--set")
    for axis in axes:
        for key in axis.keys:
            other = (set_by | flags).get(current_name(key))
            if other is not None:
                raise ConfigError(f"{key}: is varied by {axis.name}, so it must not also be in {other}")
            if key.startswith(FIXED):
                raise ConfigError(f"{key}: must be the same for all trials; put it under set")
        set_by |= dict.fromkeys(map(current_name, axis.keys), axis.name)


def _check_points(sweep: Sweep, file: Path) -> None:
    rule(len(sweep.points) <= _MAX_POINTS, f"{file}: the grid", len(sweep.points), f"at most {_MAX_POINTS:,} points")
    for point in sweep.samples:
        try:
            sweep.configuration(point)
        except ConfigError as error:
            context = f" (with {space.to_text(point)})" if point else ""
            raise ConfigError(f"{file}: {error}{context}") from error
