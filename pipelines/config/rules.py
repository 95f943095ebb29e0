"""The check of a setting against its rule."""

from pipelines.errors import ConfigError


def rule(holds: bool, key: str, value: object, rule: str) -> None:
    """Raises ConfigError, `KEY=VALUE: must be RULE`, unless the rule holds.

    Args:
        holds: whether the rule holds.
        key: full name of the setting.
        value: its value.
        rule: what it must be, phrased to follow "must be".
    """
    if not holds:
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{key}={shown}: must be {rule}")
