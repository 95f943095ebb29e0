"""What must not be written: passwords, tokens and keys.

Every writer of text that stays or is shown (tracking journal, parameters, tags, logs, spool, failure reports, error lines)
passes it through `mask`. Two rules find a secret: the value of an environment variable whose name says so, wherever it turns up,
and the forms that credentials have in text, such as `scheme://user:password@host` or `?token=...`.
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
# A shorter value would hide ordinary words and numbers.
_SHORTEST = 6
_USER_INFO = re.compile(r"(?<=://)[^\s/@'\"<>]+(?=@)")
_ASSIGNMENT = re.compile(
    r"""(?ix) \b (
        (?: [a-z0-9]+ [_-] )* (?: token | password | passwd | pwd | passphrase | secret | api_?key | access_?key | secret_?key
        | signature | sig | credential | authorization ) (?: [_-] (?: id | key ) )?
    ) (["']? \s* [=:] \s* ["']?) (?: (bearer|basic) \s+ )? (?!\*\*\*) [^\s&;,"'<>)\]}]+"""
)
_FORMS = re.compile(
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|dapi[0-9a-f]{32}(?:-\d+)?|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,})\b"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}|(?<=Basic )[A-Za-z0-9+/=]{8,}"
)

Plain = TypeVar("Plain")


def mask(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with every credential in it replaced by `***`.

    Args:
        text: any.
        environment: whose secret values are looked for; this process's by default.
    """
    for secret in _values(os.environ if environment is None else environment):
        text = text.replace(secret, MASK)
    text = _USER_INFO.sub(MASK, text)
    text = _ASSIGNMENT.sub(lambda found: f"{found[1]}{found[2]}{MASK}", text)
    return _FORMS.sub(MASK, text)


def masked(value: Plain) -> Plain:
    """Plain data (as JSON knows it) with every text in it masked. Keys of mappings stay as they are."""
    found: object = value
    if isinstance(value, str):
        found = mask(value)
    elif isinstance(value, Mapping):
        found = {key: masked(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        found = type(value)(masked(item) for item in value)
    return found  # type: ignore[return-value]


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that needs no credential: variables that hold one are left out."""
    kept = {name: value for name, value in environment.items() if not is_secret_name(name)}
    return {name: value for name, value in kept.items() if mask(value, environment) == value}


def is_secret_name(name: str) -> bool:
    """True when a variable of this name holds a credential: MLFLOW_TRACKING_TOKEN, AWS_SECRET_ACCESS_KEY, ..."""
    return _SECRET_NAME.search(name) is not None


def _values(environment: Mapping[str, str]) -> Iterable[str]:
    """Secret values, the longest first: one may hold another."""
    values = {value for name, value in environment.items() if len(value) >= _SHORTEST and is_secret_name(name)}
    for value in environment.values():
        for user_info in _USER_INFO.findall(value):
            password = user_info.partition(":")[2]
            if len(password) >= _SHORTEST:
                values.add(password)
    return sorted(values, key=len, reverse=True)


def first_line(error: BaseException | str, longest: int = 300) -> str:
    """The first line of an error's message that is not blank, without credentials; the name of its type where it has none.

    Args:
        error: an exception, or the message of one.
        longest: characters, beyond which the line is cut.
    """
    lines = mask(str(error)).strip().splitlines()
    unnamed = "" if isinstance(error, str) else type(error).__name__
    return (lines[0].rstrip() if lines else unnamed)[:longest]
