"""The check of a setting against its rule."""

from pipelines.errors import ConfigError

DAYS_30 = 30 * 24 * 3600
"""Longest time limit, in seconds: those who read them count in 32 bits, and in milliseconds."""
# Python refuses to write whole numbers of more than 4,300 digits.
_LONGEST_BITS = 400
_LONGEST_TEXT = 200


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


def bounds(key: str, value: float, low: float, high: float, rule_below: str = "") -> None:
    """Raises ConfigError unless `low <= value <= high`; also for NaN.

    Args:
        key: full name of the setting.
        value: its value.
        low, high: smallest and largest value allowed.
        rule_below: the rule that a value below `low` breaks; by default, that it must be at least that.
    """
    rule(value >= low, key, value, rule_below or f"at least {low:g}")
    rule(value <= high, key, value, f"at most {high:,}")


def shown(value: object) -> str:
    """A value as text of reasonable length."""
    if isinstance(value, list | tuple):
        text = f"[{', '.join(shown(item) if isinstance(item, int) else repr(item) for item in value)}]"
    elif isinstance(value, int) and value.bit_length() > _LONGEST_BITS:
        text = f"{'-' if value < 0 else ''}2^{value.bit_length() - 1}..."
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
