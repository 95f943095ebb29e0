"""The settings as a JSON Schema, with which editors complete and check configuration files: `./convoy schema`.

Types, choices and defaults come from the dataclasses, descriptions from the docstrings below their fields, and ranges from the
calls of `rules.bounds` and `rules.one_of`. Rules that involve several settings, or the length of a list, are not in it.
"""

import ast
import dataclasses
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipelines.config.renamed import RENAMED
from pipelines.config.rules import Limits, recorded
from pipelines.config.schema import Config

_TYPES: dict[Any, str | list[str]] = {bool: "boolean", int: "integer", float: "number", str: ["string", "null"]}


def text(examples: Mapping[str, Sequence[str]]) -> str:
    """The schema as the text of a file; `examples` as in `schema`."""
    return json.dumps(schema(examples), indent=1, ensure_ascii=False) + "\n"


def schema(examples: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file.

    Args:
        examples: values to offer for settings that take any text, by `section.key`.
    """
    with recorded() as limits:
        config = Config()
    sections = {
        field.name: _section(field.name, type(getattr(config, field.name)), limits) for field in dataclasses.fields(Config)
    }
    for key, values in examples.items():
        section, _, name = key.partition(".")
        sections[section]["properties"][name]["examples"] = list(values)
    for old, new in RENAMED.items():
        section, _, name = new.partition(".")
        properties = sections[section]["properties"]
        properties[old.partition(".")[2]] = {**properties[name], "description": f"Now called {name}.", "deprecated": True}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Convoy",
        "description": inspect.getdoc(Config),
        "type": ["object", "null"],
        "properties": sections,
        "additionalProperties": False,
    }


def descriptions(section: type) -> dict[str, str]:
    """The docstring of every field of a dataclass that has one, in one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def _section(name: str, section: type, limits: Mapping[str, Limits]) -> dict[str, Any]:
    described, hints, defaults = descriptions(section), typing.get_type_hints(section), section()
    properties = {}
    for field in dataclasses.fields(section):
        setting = _limited(_type(hints[field.name]), limits.get(f"{name}.{field.name}"))
        if field.name in described:
            setting = {"description": described[field.name], **setting}
        # As JSON writes it.
        properties[field.name] = {**setting, "default": json.loads(json.dumps(getattr(defaults, field.name)))}
    return {
        "description": inspect.getdoc(section),
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": False,
    }


def _type(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        item = _type(arguments[0])
        # In a list, a text cannot be left out.
        return {"type": "array", "items": {"type": "string"} if arguments[0] is str else item}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(each) for each in arguments]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": ["object", "null"]}
    return {"type": _TYPES[hint]}


def _limited(setting: dict[str, Any], limits: Limits | None) -> dict[str, Any]:
    if limits is None:
        return setting
    if limits.choices:
        return {"enum": list(limits.choices)}
    limited = {**setting, "minimum": limits.low, "maximum": limits.high}
    return {"anyOf": [limited, {"const": 0}]} if limits.or_zero else limited
