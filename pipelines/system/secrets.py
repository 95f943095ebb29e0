"""Masking of credentials: passwords, tokens and keys.

Free text that is stored or shown (logs, tags, failure reports, error lines, the console) passes through `mask`. Two rules find a
secret: the value of an environment variable with a telling name, wherever it occurs and however it is escaped, and the forms that
credentials have in text (`pipelines.system.secret_forms`).

Values that something is done with (names, paths, settings, addresses) pass through `mask_value`. It masks only what cannot be
anything but a credential: an experiment that is called like a password keeps its name.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
import unicodedata
from typing import Callable, Iterator, Mapping, TypeVar
from urllib.parse import quote, quote_plus, unquote

from pipelines.system import secret_forms
from pipelines.system.secret_forms import MASK as MASK
from pipelines.system.secret_forms import is_secret_name as is_secret_name

# Masking shorter values would hide ordinary words and numbers.
_SHORTEST = 6
# Addresses from settings and flags, whose passwords are masked as those of the environment are.
_remembered: set[str] = set()
# POSIX's own variables. A process needs them whatever the passwords of this environment are.
_NEEDED = {"HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER"}

Plain = TypeVar("Plain")


def mask(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Free text with every credential in it replaced by `***`.

    Args:
        text: any text.
        environment: environment whose secrets are masked; by default that of this process.
    """
    return masker(environment)(text)


def masker(environment: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """`mask` for many texts, with the environment as it is now."""
    variables = tuple((os.environ if environment is None else environment).items())
    known = _known(variables + (tuple(("", address) for address in sorted(_remembered)) if environment is None else ()))

    def mask_text(text: str) -> str:
        return secret_forms.mask_likely(known.sub(MASK, text) if known is not None else text)

    return mask_text


def remember(address: str) -> None:
    """From now on have this process mask the credentials in an address wherever they turn up, also by themselves."""
    if any(secret_forms.parts(address)):
        _remembered.add(address)


def mask_value(text: str) -> str:
    """A name, path, setting or address with what cannot be anything but a credential replaced by `***`.

    That is the user and password of a URI, passwords and keys among its parameters and in connection strings, tokens to which
    their issuers gave a form of their own, and PEM blocks.
    """
    return secret_forms.mask_certain(text)


def masked(value: Plain, by: Callable[[str], str] = mask) -> Plain:
    """JSON-like data with every string masked, except keys of mappings.

    Args:
        value: the data.
        by: masks a string: `mask`, or `mask_value` where the data is for programs.
    """
    result: object = value
    if isinstance(value, str):
        result = by(value)
    elif isinstance(value, Mapping):
        result = {key: masked(item, by) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(masked(item, by) for item in value)
    return result  # type: ignore[return-value]


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that hold credentials, for a process that needs none."""
    known = _known(tuple(environment.items()))
    return {
        name: value
        for name, value in environment.items()
        if name in _NEEDED
        or not (
            is_secret_name(name)
            or secret_forms.mask_likely(value, in_paths=False) != value
            or (known is not None and known.search(value) and not _is_path_list(value))
        )
    }


def first_line(error: BaseException | str, longest: int = 300) -> str:
    """The first non-blank line of an error's message, with credentials masked; the name of the error's type if it is empty.

    Args:
        error: an exception, or its message.
        longest: maximum number of characters.
    """
    lines = mask(str(error)).strip().splitlines()
    unnamed = "" if isinstance(error, str) else type(error).__name__
    return (lines[0].rstrip() if lines else unnamed)[:longest]


@functools.lru_cache(maxsize=4)
def _known(environment: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    """Matches the secret values of an environment, as they are and escaped; None if there are none."""
    values: set[str] = set()
    for name, value in environment:
        values.update(secret_forms.parts(value))
        if is_secret_name(name) and not (value.startswith("/") and os.path.exists(value)):
            values.update(_pieces(value))
    found = {form for value in values if len(value) >= _SHORTEST and value.strip("*") for form in _escaped(value)}
    # Longest first: one may contain another.
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None


def _pieces(value: str) -> Iterator[str]:
    """What of a secret value may turn up by itself: its lines, and the secrets in it where it is JSON."""
    yield value.strip()
    yield from (line.strip() for line in value.splitlines() if not line.startswith("-----"))
    try:
        yield from _secrets_of(json.loads(value))
    except ValueError:
        return


def _secrets_of(data: object) -> Iterator[str]:
    if isinstance(data, dict):
        for key, item in data.items():
            if isinstance(item, str) and is_secret_name(str(key)):
                yield item
            else:
                yield from _secrets_of(item)
    elif isinstance(data, list):
        for item in data:
            yield from _secrets_of(item)


def _escaped(value: str) -> Iterator[str]:
    """The forms in which JSON, Python, YAML, HTML, URLs, shells and HTTP headers write a value."""
    raw = os.fsencode(value)
    for text in {value, unquote(value), unicodedata.normalize("NFC", value), unicodedata.normalize("NFD", value)}:
        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield repr(text)[1:-1]
        yield html.escape(text)
        yield html.escape(text, quote=False)
        yield text.replace("'", "''")
        yield text.replace("'", "'\"'\"'")
        yield "".join(
            letter if letter.isascii() else _yaml_escape(letter) for letter in json.dumps(text, ensure_ascii=False)[1:-1]
        )
    yield from (quote(raw, safe=""), quote(raw), quote_plus(raw))
    yield from (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode())


def _yaml_escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _is_path_list(value: str) -> bool:
    return all(part == "" or part.startswith("/") for part in value.split(os.pathsep))
