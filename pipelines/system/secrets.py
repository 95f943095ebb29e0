"""Masking of credentials: passwords, tokens and keys.

All text that is stored or shown (tracking journal, parameters, tags, logs, spool, failure reports, error lines) passes through
`mask`. Two rules find a secret: the value of an environment variable with a telling name, wherever it occurs, and the forms that
credentials have in text, such as `scheme://user:password@host` or `?token=...`.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

MASK = "***"

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|SECRETS|CREDENTIAL|CREDENTIALS|APIKEY|AUTH"
    r"|(?:API|ACCESS|ACCOUNT|AUTH|ENCRYPTION|MASTER|PRIVATE|SAS|SECRET|SHARED|SIGNING)_KEY(?:_ID)?)$",
    re.IGNORECASE,
)
# Masking shorter values would hide ordinary words and numbers.
_SHORTEST = 6
_USER_INFO = re.compile(r"(?<=://)[^\s/@'\"<>]+(?=@)")
_ASSIGNMENT = re.compile(
    r"""(?ix) \b (
        (?: [a-z0-9]+ [_-] )* (?: token | password | passwd | pwd | passphrase | secret | api_?key | access_?key | secret_?key
        | signature | sig | credential | authorization ) (?: [_-] (?: id | key ) )?
    ) (["']? \s* [=:] \s* ["']?) (?: (bearer|basic) \s+ )? (?!\*\*\*) [^\s&;,"'<>)\]}]+"""
)
_TOKEN_FORMATS = re.compile(
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|dapi[0-9a-f]{32}(?:-\d+)?|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,})\b"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}|(?<=Basic )[A-Za-z0-9+/=]{8,}"
)

Plain = TypeVar("Plain")


def mask(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with every credential in it replaced by `***`.

    Args:
        text: any text.
        environment: environment whose secrets are masked; by default that of this process.
    """
    for secret in _values(os.environ if environment is None else environment):
        text = text.replace(secret, MASK)
    text = _USER_INFO.sub(MASK, text)
    text = _ASSIGNMENT.sub(lambda match: f"{match[1]}{match[2]}{MASK}", text)
    return _TOKEN_FORMATS.sub(MASK, text)


def masked(value: Plain) -> Plain:
    """JSON-like data with every string masked, except keys of mappings."""
    result: object = value
    if isinstance(value, str):
        result = mask(value)
    elif isinstance(value, Mapping):
        result = {key: masked(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(masked(item) for item in value)
    return result  # type: ignore[return-value]


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that hold credentials, for a process that needs none."""
    kept = {name: value for name, value in environment.items() if not is_secret_name(name)}
    return {name: value for name, value in kept.items() if mask(value, environment) == value}


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a credential: MLFLOW_TRACKING_TOKEN, AWS_SECRET_ACCESS_KEY, ..."""
    return _SECRET_NAME.search(name) is not None


def _values(environment: Mapping[str, str]) -> Iterable[str]:
    """Secret values, longest first: one may contain another."""
    values = {value for name, value in environment.items() if len(value) >= _SHORTEST and is_secret_name(name)}
    for value in environment.values():
        for user_info in _USER_INFO.findall(value):
            password = user_info.partition(":")[2]
            if len(password) >= _SHORTEST:
                values.add(password)
    return sorted(values, key=len, reverse=True)


def first_line(error: BaseException | str, longest: int = 300) -> str:
    """The first non-blank line of an error's message, with credentials masked; the name of the error's type if it is empty.

    Args:
        error: an exception, or its message.
        longest: maximum number of characters.
    """
    lines = mask(str(error)).strip().splitlines()
    unnamed = "" if isinstance(error, str) else type(error).__name__
    return (lines[0].rstrip() if lines else unnamed)[:longest]
