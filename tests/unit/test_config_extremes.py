"""The extremes of every numeric setting, generated from its type: one clear line, or a value that a run can use."""

import dataclasses
import math
import threading
import types
import typing

import numpy as np
import pytest

from jobs import runs
from pipelines.config import Config, loader
from pipelines.errors import ConfigError
from pipelines.launch.rendezvous.server import RankPlacement, slot_info
from pipelines.launch.workers.environment import horovod_environment
from pipelines.sweep.plan import SweepConfig

# As YAML.
_INTEGERS = [
    *("-1", "0", "1", "-2147483649", "2147483648", "4294967296", "-9223372036854775809", "9223372036854775808"),
    *(str(10**30), str(-(10**400)), "0x" + "f" * 5000, "9" * 5000),
]
_NUMBERS = [
    *_INTEGERS,
    ".nan",
    ".inf",
    "-.inf",
    "1.7e308",
    "-1.7e308",
    "5.0e-324",
    "-0.0",
    "0.9999999999999999",
    "1.0e-38",
    "1.0e+38",
]
_EXTREMES = {int: _INTEGERS, float: _NUMBERS, bool: []}
# What a file may hold by mistake.
_NO_NUMBERS = ["1979-13-45", "five", "[]", "{}", "yes", "~", "0b2", "!!python/none x"]
_FINITE_AS_FLOAT32 = ("base_learning_rate", "weight_decay", "clip_norm", "warmup_epochs", "step_epochs")


def values_of(kind):
    """Extreme values of a setting of this type, as YAML."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return [value for one in typing.get_args(kind) for value in values_of(one)]
    if typing.get_origin(kind) is not tuple:
        return _EXTREMES.get(kind, [])
    (item, _) = typing.get_args(kind)
    elements = _EXTREMES.get(item, [])
    lists = [f"[{element}, {element}]" for element in elements] + [f"[{element}, {element}, {element}]" for element in elements]
    return [*lists, "[]", *(f"[0, {element}]" for element in elements)] if elements else []


def cases():
    sections = typing.get_type_hints(Config)
    for section, kind in sections.items():
        for name, hint in typing.get_type_hints(kind).items():
            for value in values_of(hint):
                yield f"{section}.{name}", value


CASES = list(cases())


def numbers(value):
    return [number for item in value for number in numbers(item)] if isinstance(value, tuple) else [value]


def check_usable(config):
    """What reads the settings further down."""
    for value in config.flat().values():
        for number in numbers(value):
            if isinstance(number, int | float):
                assert math.isfinite(number)
                assert isinstance(number, float) or abs(number) < 2**63
    training, launch, data = config.training, config.launch, config.data
    np.random.default_rng((training.seed, 0))
    # As Keras seeds it.
    np.random.RandomState(training.seed)
    for name in _FINITE_AS_FLOAT32:
        value = getattr(training, name)
        assert np.isfinite(np.float32(value))
        # Others may vanish: they then have no effect.
        assert value == 0 or name in ("weight_decay", "warmup_epochs") or np.float32(value) >= np.finfo(np.float32).tiny
    for name in ("momentum", "average_decay"):
        assert np.float32(getattr(training, name)) < 1
    low, high = data.allowed_range
    scale = np.float32(1 / (high - low))
    assert np.finfo(np.float32).tiny <= scale < np.inf
    variables = horovod_environment(RankPlacement(slot_info(0, ["a"]), "127.0.0.1:1", "lo", ["a"]), launch)
    for name in ("GLOO_TIMEOUT", "STALL_CHECK_TIME", "STALL_SHUTDOWN_TIME"):
        assert 0 < int(variables[f"HOROVOD_{name}_SECONDS"]) * 1000 < 2**32
    assert config.tracking.finish_timeout_seconds < threading.TIMEOUT_MAX
    assert len(data.label_values) == data.classes


def test_the_cases_cover_every_numeric_setting():
    numeric = {
        key
        for key, value in Config().flat().items()
        if any(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers(value))
    }
    assert numeric <= {key for key, _ in CASES}
    assert len(numeric) >= 44


def test_an_extreme_value_of_any_numeric_setting_is_one_line_or_can_be_used():
    accepted = set()
    for key, value in CASES:
        setting = f"{key}={value}"
        try:
            config = loader.load(None, [setting])
        except ConfigError as error:
            check_line(str(error), key)
            continue
        try:
            check_usable(config)
        except (AssertionError, ValueError, OverflowError) as error:
            raise AssertionError(f"{setting} is accepted, but: {error}") from error
        assert loader.changed(config, {}, "copy") == config
        accepted.add(key)
    # The rules are not merely too strict.
    assert len(accepted) >= 40


def check_line(line, key):
    assert "\n" not in line
    assert key in line
    assert "must be" in line or "is not a YAML value" in line
    assert len(line) < 600


@pytest.mark.parametrize("text", _NO_NUMBERS)
@pytest.mark.parametrize("key", ["training.epochs", "training.warmup_epochs", "data.value_range"])
def test_what_is_no_number_is_one_line(key, text, tmp_path):
    with pytest.raises(ConfigError) as caught:
        loader.load(None, [f"{key}={text}"])
    check_line(str(caught.value), key)
    section, _, name = key.partition(".")
    (tmp_path / "c.yml").write_text(f"{section}:\n  {name}: {text}\n")
    with pytest.raises(ConfigError) as caught:
        loader.load(tmp_path / "c.yml")
    assert "\n" not in str(caught.value)


def test_an_extreme_value_of_any_number_of_a_sweep_is_one_line_or_can_be_used():
    keys = {field.name: kind for field in dataclasses.fields(SweepConfig) if (kind := field.type) is int}
    assert len(keys) >= 5
    for key, kind in keys.items():
        for text in values_of(kind):
            for search in ("grid", "random"):
                try:
                    config = SweepConfig(**{"search": search, "trials": 2 * (search == "random"), key: parsed(text, kind)})
                except ConfigError as error:
                    check_line(str(error), key)
                else:
                    assert getattr(config, key) < 2**63
                    np.random.SeedSequence((config.seed, 0))


def parsed(text, kind):
    """A number as YAML reads it, or one that it cannot read."""
    return int(text, 0) if len(text) < 4000 or text.startswith("0x") else kind(10**4299)


@pytest.mark.parametrize("count", ["0", "-1", str(10**30)])
def test_an_impossible_number_of_runs_to_list_is_one_line(count):
    with pytest.raises(ConfigError, match=f"^--count {count}: must be from 1 to 50,000$"):
        runs.main([f"--count={count}"])
