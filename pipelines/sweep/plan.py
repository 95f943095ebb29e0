"""A sweep: its search space, search method and objective, and the configuration of each trial."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipelines import tasks
from pipelines.config import Config, loader
from pipelines.config.rules import bounds, rule
from pipelines.launch import user_inputs
from pipelines.sweep import space
from pipelines.sweep.space import CONFIGURATION, SEED, Assignment, Axis, Choices
from pipelines.tasks.metric import named

Search = Literal["grid", "random", "bayesian"]
Purpose = Literal["choose", "compare"]
Objective = Literal["validation/loss", "validation/accuracy", "validation/rmse", "validation/mae", "validation/r2"]
Pruning = Literal["none", "median", "halving"]

_MANY = 10**6
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
    """A loss or error to minimize, or an accuracy or R2 to maximize, of the weights that a trial ends with."""
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
        sampled = self.search != "grid"
        rule(self.trials >= 1 or not sampled, "trials", self.trials, f"at least 1 with search {self.search}")
        rule(self.trials == 0 or sampled, "trials", self.trials, "left out with search grid: its points are its trials")
        rule(not sampled or self.purpose == "choose", "purpose", self.purpose, "choose unless search is grid")
        rule(
            self.pruning == "none" or self.purpose == "choose",
            "pruning",
            self.pruning,
            "none with purpose compare, all of whose trials are trained to the end",
        )
        bounds("pruning_after_epochs", self.pruning_after_epochs, 1, _MANY)
        bounds("pruning_after_trials", self.pruning_after_trials, 1, _MANY)
        bounds("side_by_side", self.side_by_side, 0, _MANY, "0 (automatic) or more")
        bounds("trials", self.trials, 0, _MANY)
        bounds("seed", self.seed, 0, 2**32 - 1)


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
        return self.config.objective if self.config.purpose == "choose" else self.tested

    @property
    def tested(self) -> str:
        """The first metric of the task, on test rows."""
        return f"test/{tasks.of(self.base.data.task).metrics[0].name}"

    @property
    def minimised(self) -> bool:
        metric = named(tasks.of(self.base.data.task).metrics, self.metric.partition("/")[2])
        return metric is None or not metric.larger_is_better

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
        return self.points or [first | {axis.name: value} for axis in self.axes for value in axis.samples] or [first]

    @property
    def trials(self) -> int:
        return self.config.trials or len(self.points)

    @property
    def _choices(self) -> list[Choices]:
        return [axis for axis in self.axes if isinstance(axis, Choices)]

    def configuration(self, assignment: Assignment) -> Config:
        """The configuration of a trial. Raises ConfigError if its settings cannot be combined."""
        base = self.bases[str(assignment[CONFIGURATION])] if CONFIGURATION in assignment else self.base
        config = loader.changed(base, space.settings_of(self.axes, assignment), space.to_text(assignment) or self.config.name)
        user_inputs.check(config)
        if self.config.purpose == "choose":
            fraction = config.ingest.validation_fraction
            self._check_objective(config)
            rule(fraction > 0, "ingest.validation_fraction", fraction, f"more than 0: {self.metric} decides, never a test row")
        return config

    def _check_objective(self, config: Config) -> None:
        names = ["validation/loss", *(f"validation/{metric.name}" for metric in tasks.of(config.data.task).metrics)]
        rule(self.metric in names, "objective", self.metric, f"one of {', '.join(names)} with data.task {config.data.task}")


def without_seed(assignment: Assignment) -> dict[str, space.AxisValue]:
    """The assignment without the seed: equal for trials that differ only in their seed."""
    return {name: value for name, value in assignment.items() if name != SEED}


def for_trial(config: Config, threads: int) -> Config:
    """The configuration of a trial with its share of the cores, and no checkpoints: an interrupted trial starts over."""
    launch = config.launch
    if launch.threads_per_worker == 0:
        launch = dataclasses.replace(launch, threads_per_worker=threads)
    checkpoint = dataclasses.replace(config.checkpoint, every_epochs=0, every_steps=0)
    return dataclasses.replace(config, launch=launch, checkpoint=checkpoint)
