"""The check of a setting against its rule."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from pipelines.errors import ConfigError

DAYS_30 = 30 * 24 * 3600
"""Longest time limit, in seconds: those who read them count in 32 bits, and in milliseconds."""
# Python refuses to write whole numbers of more than 4,300 digits.
_LONGEST_BITS = 400
_LONGEST_TEXT = 200


@dataclass(frozen=True)
class Limits:
    """What a setting may be, besides its type.

    Attributes:
        low, high: smallest and largest number allowed; None where there is none.
        or_zero: whether 0 is allowed as well.
        choices: the values allowed; empty if all between `low` and `high` are.
    """

    low: float | None = None
    high: float | None = None
    or_zero: bool = False
    choices: tuple[float, ...] = ()


_recorder: ContextVar[dict[str, Limits] | None] = ContextVar("_recorder", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, Limits]]:
    """Collect the limits, by key, that `bounds` and `one_of` check in the meantime."""
    limits: dict[str, Limits] = {}
    token = _recorder.set(limits)
    try:
        yield limits
    finally:
        _recorder.reset(token)


def rule(holds: bool, key: str, value: object, rule: str) -> None:
    """Raises ConfigError, `KEY=VALUE: must be RULE`, unless the rule holds.

    Args:
        holds: whether the rule holds.
        key: full name of the setting.
        value: its value.
        rule: what it must be, phrased to follow "must be".
    """
    if not holds:
        raise ConfigError(f"{key}={shown(value)}: must be {rule}")


def bounds(key: str, value: float, low: float, high: float, rule_below: str = "", *, or_zero: bool = False) -> None:
    """Raises ConfigError unless `low <= value <= high`; also for NaN.

    Args:
        key: full name of the setting.
        value: its value.
        low, high: smallest and largest value allowed.
        rule_below: the rule that a value below `low` breaks; by default, that it must be at least that.
        or_zero: allow 0 although it lies outside.
    """
    _record(key, Limits(low, high, or_zero))
    if or_zero and value == 0:
        return
    rule(value >= low, key, value, rule_below or f"at least {low:g}")
    rule(value <= high, key, value, f"at most {high:,}")


def one_of(key: str, value: float, choices: tuple[float, ...]) -> None:
    """Raises ConfigError unless the value is one of at least two choices."""
    _record(key, Limits(choices=choices))
    rule(value in choices, key, value, f"{', '.join(map(str, choices[:-1]))} or {choices[-1]}")


def _record(key: str, limits: Limits) -> None:
    recorder = _recorder.get()
    if recorder is not None:
        recorder[key] = limits


def shown(value: object) -> str:
    """A value as text of reasonable length."""
    if isinstance(value, list | tuple):
        text = f"[{', '.join(shown(item) if isinstance(item, int) else repr(item) for item in value)}]"
    elif isinstance(value, int) and value.bit_length() > _LONGEST_BITS:
        text = f"{'-' if value < 0 else ''}2^{value.bit_length() - 1}..."
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
