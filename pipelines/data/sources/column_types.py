"""What columns of a Spark table can hold, by their types as Spark writes them in JSON (`DataType.jsonValue`)."""

import re
from typing import Any, Literal

from pipelines.data.formats.arrow_structs import StructKind, struct_kind

ColumnKind = Literal["number", "boolean", "text", "binary", "numbers"] | StructKind
_NUMBER = re.compile(r"byte|short|integer|long|float|double|decimal(\(.*\))?")
_TEXT = re.compile(r"string.*|(var)?char\(\d+\)")
INPUT_KINDS: tuple[ColumnKind, ...] = ("binary", "numbers", "vector", "image", "bytes")
"""Kinds of a column whose values are whole images or features."""


def column_kind(kind: str | dict[str, Any]) -> ColumnKind | None:
    """What a column of this type holds; None if it is nothing that can be read."""
    if isinstance(kind, str):
        if _NUMBER.fullmatch(kind):
            return "number"
        if _TEXT.fullmatch(kind):
            return "text"
        return "boolean" if kind == "boolean" else "binary" if kind == "binary" else None
    if kind["type"] == "udt":
        return "vector" if kind.get("class", "").endswith(".VectorUDT") else None
    if kind["type"] == "array":
        return "numbers" if column_kind(kind["elementType"]) == "number" else None
    return struct_kind([field["name"] for field in kind["fields"]]) if kind["type"] == "struct" else None
