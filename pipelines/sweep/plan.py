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

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipelines.config import Config, loader
from pipelines.config.rules import rule
from pipelines.errors import ConfigError
from pipelines.models import registry
from pipelines.sweep import space
from pipelines.sweep.axes import read_axes
from pipelines.sweep.space import CONFIGURATION, SEED, Assignment, Axis, Choices
from pipelines.system import atomic
from pipelines.system.secrets import mask_value, masked
from pipelines.track.rundir import layout

Search = Literal["grid", "random", "bayesian"]
Purpose = Literal["choose", "compare"]
Objective = Literal["validation/loss", "validation/accuracy"]
Pruning = Literal["none", "median", "halving"]

_CONFIGS_FOLDER = "configs"
_MOST_POINTS = 1_000
FIXED = ("tracking.", "launch.runs_uri", "launch.log_level")
"""Settings that a trial takes from the sweep: where and how it is recorded."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The keys of the file that have plain values."""

    name: str = ""
    """Name of the sweep and its run. Empty: the file's name."""
    purpose: Purpose = "choose"
    """choose: the objective selects the best trial, which alone is evaluated on the test rows. compare: nothing is selected,
    every trial is tested, and configurations are compared by mean and range over seeds."""
    search: Search = "grid"
    objective: Objective = "validation/loss"
    """Minimized loss or maximized accuracy, of the weights that a trial ends with."""
    trials: int = 0
    """Number of trials of a random or bayesian search."""
    seed: int = 1
    """Seed of random and bayesian searches."""
    pruning: Pruning = "none"
    """median: stop a trial that is worse than the median of earlier trials at the same epoch. halving: of every three trials that
    reach an epoch, one continues three times as far (successive halving, Li et al. 2020, arXiv:1810.05934)."""
    pruning_after_epochs: int = 1
    """Epochs before which no trial is pruned."""
    pruning_after_trials: int = 4
    """With `median`: number of trials that must have finished before any is pruned."""
    side_by_side: int = 0
    """Maximum number of parallel trials. 0: as many as task slots allow."""

    def __post_init__(self) -> None:
        drawn = self.search != "grid"
        rule(self.trials >= 1 or not drawn, "trials", self.trials, f"at least 1 with search {self.search}")
        rule(self.trials == 0 or drawn, "trials", self.trials, "left out with search grid: its points are its trials")
        rule(not drawn or self.purpose == "choose", "purpose", self.purpose, "choose unless search is grid")
        rule(
            self.pruning == "none" or self.purpose == "choose",
            "pruning",
            self.pruning,
            "none with purpose compare, all of whose trials are trained to the end",
        )
        rule(self.pruning_after_epochs >= 1, "pruning_after_epochs", self.pruning_after_epochs, "at least 1")
        rule(self.pruning_after_trials >= 1, "pruning_after_trials", self.pruning_after_trials, "at least 1")
        rule(self.side_by_side >= 0, "side_by_side", self.side_by_side, "0 (automatic) or more")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A validated sweep."""

    config: SweepConfig
    bases: Mapping[str, Config]
    """Base configurations by name: a single one, or the values of the axis `configuration`."""
    axes: tuple[Axis, ...]
    text: str
    """The original text of the file, for the record."""

    @property
    def metric(self) -> str:
        return self.config.objective if self.config.purpose == "choose" else "test/accuracy"

    @property
    def minimised(self) -> bool:
        return self.metric == "validation/loss"

    @property
    def base(self) -> Config:
        return next(iter(self.bases.values()))

    @property
    def points(self) -> list[dict[str, space.AxisValue]]:
        """Points of a grid; empty for random and bayesian searches."""
        return list(space.grid(self._choices)) if self.config.search == "grid" else []

    @property
    def samples(self) -> list[dict[str, space.AxisValue]]:
        """Points to validate: all of a grid; otherwise each choice and range end, with the first values of the other axes."""
        first = {axis.name: axis.samples[0] for axis in self.axes}
        return self.points or [first | {axis.name: place} for axis in self.axes for place in axis.samples] or [first]

    @property
    def trials(self) -> int:
        return self.config.trials or len(self.points)

    @property
    def _choices(self) -> list[Choices]:
        return [axis for axis in self.axes if isinstance(axis, Choices)]

    def configuration(self, assignment: Assignment) -> Config:
        """The configuration of a trial. Raises ConfigError if its settings cannot be combined."""
        base = self.bases[str(assignment[CONFIGURATION])] if CONFIGURATION in assignment else self.base
        config = loader.changed(base, space.settings_of(self.axes, assignment), space.shown(assignment) or self.config.name)
        registry.check(config.model.name, config.training.label_smoothing)
        if self.config.purpose == "choose":
            fraction = config.ingest.validation_fraction
            rule(fraction > 0, "ingest.validation_fraction", fraction, f"more than 0: {self.metric} decides, never a test row")
        return config


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
    plain = {key: _converted(file, key, content[key], hints[key]) for key in hints if key in content}
    plain.setdefault("name", file.stem)
    try:
        config = SweepConfig(**plain)
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


def keep(sweep: Sweep, folder: Path) -> None:
    """Save a copy from which `load` restores the same sweep, even if its original files change."""
    configs = folder / _CONFIGS_FOLDER
    configs.mkdir(parents=True, exist_ok=True)
    for name, base in sweep.bases.items():
        atomic.write(configs / f"{name}.yml", loader.dump_masked(base), private=True)
    content: dict[str, Any] = dict(yaml.safe_load(sweep.text) or {})
    content = {key: value for key, value in content.items() if key not in ("config", "configs", "set")}
    places = [str((configs / f"{name}.yml").absolute()) for name in sweep.bases]
    content |= {"name": sweep.config.name}
    content |= {"configs": places} if any(axis.name == CONFIGURATION for axis in sweep.axes) else {"config": places[0]}
    atomic.write(folder / layout.SWEEP_FILE, yaml.safe_dump(masked(content, mask_value), sort_keys=False), private=True)


def _converted(file: Path, key: str, value: Any, wanted: Any) -> Any:
    try:
        return loader.convert(value, wanted)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{file}: {key}={value}: must be {error}") from error


def _files(content: Mapping[str, Any]) -> list[Path]:
    if "config" in content and "configs" in content:
        raise ConfigError("config and configs: only one of them may be present; configs makes the file an axis")
    named = content.get("configs", [content.get("config", "conf/train_cnn.yml")])
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise ConfigError(f"configs={named}: must be a list of configuration files, for example [conf/mlp.yml, conf/convnet.yml]")
    files = [loader.find(name) for name in named]
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
    taken = dict.fromkeys(settings, "set")
    flags = dict.fromkeys((text.partition("=")[0].strip() for text in overrides), "--set")
    for axis in axes:
        for key in axis.keys:
            place = (taken | flags).get(key)
            if place is not None:
                raise ConfigError(f"{key}: is varied by {axis.name}, so it must not also be in {place}")
            if key.startswith(FIXED):
                raise ConfigError(f"{key}: must be the same for all trials; put it under set")
        taken |= dict.fromkeys(axis.keys, axis.name)


def _check_points(sweep: Sweep, file: Path) -> None:
    rule(len(sweep.points) <= _MOST_POINTS, f"{file}: the grid", len(sweep.points), f"at most {_MOST_POINTS:,} points")
    for point in sweep.samples:
        try:
            sweep.configuration(point)
        except ConfigError as error:
            where = f" (with {space.shown(point)})" if point else ""
            raise ConfigError(f"{file}: {error}{where}") from error


def without_seed(assignment: Assignment) -> dict[str, space.AxisValue]:
    """The assignment without the seed: equal for trials that differ only in their seed."""
    return {name: place for name, place in assignment.items() if name != SEED}


def for_trial(config: Config, threads: int) -> Config:
    """The configuration of a trial with its share of the cores, and no checkpoints: an interrupted trial starts over."""
    launch = config.launch
    if launch.threads_per_worker == 0:
        launch = dataclasses.replace(launch, threads_per_worker=threads)
    return dataclasses.replace(config, launch=launch, checkpoint=dataclasses.replace(config.checkpoint, every_epochs=0))
