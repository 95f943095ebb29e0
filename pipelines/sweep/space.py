"""The search space of a sweep: its axes, and the settings that a value on each axis stands for."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SEED = "training.seed"
CONFIGURATION = "configuration"
"""The axis of a sweep over several conf files."""

AxisValue = str | int | float
"""The label of a choice, or the number itself on a range."""


@dataclass(frozen=True)
class Option:
    """One choice on an axis."""

    label: str
    """Human-readable and unique on its axis; identifies the option in the sweep's record."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`section.key` to value, as parsed from YAML. Empty on the axis of conf files."""


@dataclass(frozen=True)
class Choices:
    """An axis of choices: values of one setting, or points that move several settings together."""

    name: str
    options: tuple[Option, ...]

    def settings(self, value: AxisValue) -> Mapping[str, Any]:
        return next(option.settings for option in self.options if option.label == value)

    @property
    def keys(self) -> set[str]:
        """The settings that the axis varies."""
        return {key for option in self.options for key in option.settings}

    @property
    def samples(self) -> tuple[AxisValue, ...]:
        """The values to validate."""
        return tuple(option.label for option in self.options)


@dataclass(frozen=True, kw_only=True)
class Range:
    """An axis of numbers, both ends included."""

    name: str
    """Name of the setting."""
    low: float
    high: float
    log: bool = False
    """Whether values are sampled uniformly on a logarithmic scale."""
    integer: bool = False

    def settings(self, value: AxisValue) -> Mapping[str, Any]:
        return {self.name: value}

    @property
    def keys(self) -> set[str]:
        return {self.name}

    @property
    def samples(self) -> tuple[AxisValue, ...]:
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)


Axis = Choices | Range
Assignment = Mapping[str, AxisValue]
"""A value on every axis, by the axis's name."""


def grid(axes: Sequence[Choices]) -> Iterator[dict[str, AxisValue]]:
    """All combinations. The first axis varies slowest."""
    names = [axis.name for axis in axes]
    for values in itertools.product(*(axis.samples for axis in axes)):
        yield dict(zip(names, values, strict=True))


def settings_of(axes: Sequence[Axis], assignment: Assignment) -> dict[str, Any]:
    """The settings of an assignment, `section.key` to value."""
    settings: dict[str, Any] = {}
    for axis in axes:
        settings |= axis.settings(assignment[axis.name])
    return settings


def label_of(value: Any) -> str:
    """A value as human-readable text, as one word where possible."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " x ".join(label_of(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Display names: without the section if they remain unique."""
    keys = [name.rpartition(".")[2] for name in names]
    return {name: key if keys.count(key) == 1 else name for name, key in zip(names, keys, strict=True)}


def to_text(assignment: Assignment) -> str:
    """An assignment as one line of text."""
    names = short_names(list(assignment))
    return ", ".join(
        f"{names[name]} {value:.4g}" if isinstance(value, float) else f"{names[name]} {value}"
        for name, value in assignment.items()
    )
