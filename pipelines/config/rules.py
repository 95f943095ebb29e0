"""What a setting that breaks its rule is told."""

from pipelines.errors import ConfigError


def rule(holds: bool, key: str, value: object, rule: str) -> None:
    """Raises ConfigError, `KEY=VALUE: must be RULE`, unless the rule holds.

    Args:
        holds: whether it does.
        key: full name of the setting.
        value: what it was set to.
        rule: what it must be, to read after "must be".
    """
    if not holds:
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{key}={shown}: must be {rule}")
