"""From values that YAML has parsed to the types of settings."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal


def convert(value: Any, target: Any) -> Any:
    """Convert a value parsed from YAML to a type.

    Raises:
        TypeError, ValueError: the message says what the value must be.
    """
    origin = typing.get_origin(target)
    if origin in (types.UnionType, typing.Union):
        return _convert_to_one_of(value, typing.get_args(target))
    if origin is Literal:
        choices = typing.get_args(target)
        if value not in choices:
            raise ValueError("one of " + ", ".join(map(str, choices)))
        return value
    if origin is tuple:
        (item, _) = typing.get_args(target)
        if not isinstance(value, list | tuple):
            raise TypeError(f"a list of {_noun(item)}s, for example [1, 2]")
        if item is str and not all(isinstance(element, str) for element in value):
            raise TypeError(f"a list of texts, but {_read_as(next(each for each in value if not isinstance(each, str)))}")
        return tuple(convert(element, item) for element in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise TypeError("a mapping, for example {width: 32}")
        return _plain_value(value)
    if target is float and isinstance(value, str):
        # YAML 1.1 parses 1e-3, which has no dot, as a string.
        value = _float_or_text(value)
    if target is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ValueError("a number up to 1.7e308") from None
    if target is str and isinstance(value, types.NoneType):
        value = ""
    if type(value) is not target:
        raise TypeError(f"text, but {_read_as(value)}" if target is str else _noun(target, article=True))
    return value


def _plain_value(value: Any) -> Any:
    """A copy of a value inside a mapping. Raises TypeError for one that JSON, in which checkpoints keep settings, cannot hold."""
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise TypeError(f"a mapping whose keys are texts: put quotes around {wrong}")
        return {key: _plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if value is not None and not isinstance(value, str | int | float):
        raise TypeError(f'a mapping of numbers, texts, lists and mappings: put quotes around {value}, as in "{value}"')
    return value


def _convert_to_one_of(value: Any, targets: Sequence[Any]) -> Any:
    """Convert a value to the first type that takes it: a list to a list, anything else to a word."""
    expected = []
    for target in targets:
        if isinstance(value, list | tuple) and typing.get_origin(target) is tuple:
            return convert(value, target)
        try:
            return convert(value, target)
        except (TypeError, ValueError) as error:
            expected.append(str(error))
    raise ValueError(", or ".join(expected))


def _float_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _read_as(value: Any) -> str:
    """Why a value that was written without quotes is not text."""
    if isinstance(value, bool):
        words, kind = ("yes", "on", "true") if value else ("no", "off", "false"), "true" if value else "false"
        return f'YAML reads {", ".join(words[:-1])} and {words[-1]} as {kind}: put quotes around the word, as in "{words[0]}"'
    if isinstance(value, list | dict):
        return f"this is a {'list' if isinstance(value, list) else 'mapping'}: put quotes around it if it is a text"
    shown = "null" if value is None else value
    return f'YAML reads {shown} as {"nothing" if value is None else "a number or date"}: put quotes around it, as in "{shown}"'


def _noun(kind: type, *, article: bool = False) -> str:
    noun = {int: "whole number", float: "number", bool: "true or false", str: "text"}[kind]
    return f"a {noun}" if article and kind in (int, float) else noun
