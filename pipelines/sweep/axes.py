"""Read the axes of a sweep file: `space`, `points` and `seeds`."""

import typing
from collections.abc import Mapping
from typing import Any, Literal

from pipelines.config import loader
from pipelines.config.rules import rule
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
    for key, given in _mapping(content, "space").items():
        axes.append(_range(key, given) if isinstance(given, Mapping) else _values(key, given))
        if isinstance(axes[-1], Range) and not numbers:
            raise ConfigError(f"space.{key}: must be a list of values with search grid; search random and bayesian take a range")
    for name, points in _mapping(content, "points").items():
        axes.append(_points(str(name), points))
    if "seeds" in content:
        if numbers:
            raise ConfigError("seeds: only with search grid, where every point is trained with each of them")
        axes.append(_values(SEED, content["seeds"]))
    names = [axis.name for axis in axes]
    rule(len(set(names)) == len(names), "points", names, "axes whose names differ")
    return tuple(axes)


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = content.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key}: must be a section with entries below it, not {found!r}")
    return found


def _values(key: str, given: Any) -> Choices:
    wanted = loader.type_of(key, "space")
    if not isinstance(given, list) or not given:
        raise ConfigError(f"space.{key}={given}: must be a list of values, or a range such as {{low: 0.1, high: 0.5}}")
    return Choices(key, _different(f"space.{key}", [Option(label_of(_as(key, value, wanted)), {key: value}) for value in given]))


def _points(name: str, given: Any) -> Choices:
    example = '"a": {training.epochs: 3, training.seed: 2}'
    if not isinstance(given, Mapping) or not given or not all(isinstance(settings, Mapping) for settings in given.values()):
        raise ConfigError(f"points.{name}: must contain named points with their settings, for example {example}")
    for label, settings in given.items():
        for key, value in settings.items():
            _as(key, value, loader.type_of(str(key), f"points.{name}.{label}"))
    return Choices(name, _different(f"points.{name}", [Option(str(label), dict(settings)) for label, settings in given.items()]))


def _different(key: str, choices: list[Option]) -> tuple[Option, ...]:
    labels = [choice.label for choice in choices]
    rule(len(set(labels)) == len(labels), key, labels, "a list without repetitions")
    return tuple(choices)


def _range(key: str, given: Mapping[str, Any]) -> Range:
    wanted = loader.type_of(key, "space")
    name = f"space.{key}"
    if wanted not in (int, float):
        kind = "choices" if typing.get_origin(wanted) is Literal else "values"
        raise ConfigError(f"{name}: must be a list of {kind}; only numbers have a range")
    if not {"low", "high"} <= given.keys() <= _RANGE_KEYS:
        raise ConfigError(f"{name}={dict(given)}: must have low and high, and may have log: true")
    low, high = (_as(key, given[end], wanted) for end in ("low", "high"))
    log = given.get("log", False)
    rule(isinstance(log, bool), f"{name}.log", log, "true or false")
    rule(low < high, name, [low, high], "a low end below a high one")
    rule(not log or low > 0, f"{name}.low", low, "more than 0 with log")
    return Range(name=key, low=low, high=high, log=log, whole=wanted is int)


def _as(key: str, value: Any, wanted: Any) -> Any:
    try:
        return loader.convert(value, wanted)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}={value}: must be {error}") from error
