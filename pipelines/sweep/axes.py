"""Read the axes of a sweep file: `space`, `points` and `seeds`."""

import typing
from collections.abc import Mapping
from typing import Any, Literal

from pipelines.config import loader
from pipelines.config.conversion import convert
from pipelines.config.rules import rule, shown
from pipelines.errors import ConfigError
from pipelines.sweep.space import SEED, Axis, Choices, Option, Range, label_of

_RANGE_KEYS = {"low", "high", "log"}


def read_axes(content: Mapping[str, Any], *, numbers: bool) -> tuple[Axis, ...]:
    """The axes, in the order of the file.

    Args:
        content: the file's content.
        numbers: whether an axis may be a range.

    Raises:
        ConfigError: names key, value, rule and remedy.
    """
    axes: list[Axis] = []
    for key, value in _mapping(content, "space").items():
        axes.append(_range(key, value) if isinstance(value, Mapping) else _choices(key, value))
        if isinstance(axes[-1], Range) and not numbers:
            raise ConfigError(f"space.{key}: must be a list of values with search grid; search random and bayesian take a range")
    for name, points in _mapping(content, "points").items():
        axes.append(_points(str(name), points))
    if "seeds" in content:
        if numbers:
            raise ConfigError("seeds: only with search grid, where every point is trained with each of them")
        axes.append(_choices(SEED, content["seeds"]))
    names = [axis.name for axis in axes]
    rule(len(set(names)) == len(names), "points", names, "axes whose names differ")
    return tuple(axes)


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = content.get(key) or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{key}: must be a section with entries below it, not {section!r}")
    return section


def _choices(key: str, values: Any) -> Choices:
    value_type = loader.type_of(key, "space")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"space.{key}={values}: must be a list of values, or a range such as {{low: 0.1, high: 0.5}}")
    options = [Option(label_of(_convert(key, value, value_type)), {key: value}) for value in values]
    return Choices(key, _unique(f"space.{key}", options))


def _points(name: str, points: Any) -> Choices:
    example = '"a": {training.epochs: 3, training.seed: 2}'
    if not isinstance(points, Mapping) or not points or not all(isinstance(settings, Mapping) for settings in points.values()):
        raise ConfigError(f"points.{name}: must contain named points with their settings, for example {example}")
    for label, settings in points.items():
        for key, value in settings.items():
            _convert(key, value, loader.type_of(str(key), f"points.{name}.{label}"))
    return Choices(name, _unique(f"points.{name}", [Option(str(label), dict(settings)) for label, settings in points.items()]))


def _unique(key: str, options: list[Option]) -> tuple[Option, ...]:
    labels = [option.label for option in options]
    rule(len(set(labels)) == len(labels), key, labels, "a list without repetitions")
    return tuple(options)


def _range(key: str, content: Mapping[str, Any]) -> Range:
    value_type = loader.type_of(key, "space")
    name = f"space.{key}"
    if value_type not in (int, float):
        kind = "choices" if typing.get_origin(value_type) is Literal else "values"
        raise ConfigError(f"{name}: must be a list of {kind}; only numbers have a range")
    if not {"low", "high"} <= content.keys() <= _RANGE_KEYS:
        raise ConfigError(f"{name}={dict(content)}: must have low and high, and may have log: true")
    low, high = (_convert(key, content[end], value_type) for end in ("low", "high"))
    log = content.get("log", False)
    rule(isinstance(log, bool), f"{name}.log", log, "true or false")
    rule(low < high, name, [low, high], "a low end below a high one")
    rule(not log or low > 0, f"{name}.low", low, "more than 0 with log")
    return Range(name=key, low=low, high=high, log=log, integer=value_type is int)


def _convert(key: str, value: Any, value_type: Any) -> Any:
    try:
        return convert(value, value_type)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}={shown(value)}: must be {error}") from error
