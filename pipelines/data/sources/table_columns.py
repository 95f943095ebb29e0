"""The columns of a Spark table that `data.columns` names: whether they can be read, and the expressions that select them."""

import difflib

from pipelines.config import DataConfig
from pipelines.config.columns import Columns
from pipelines.data.sources.column_types import INPUT_KINDS, ColumnKind
from pipelines.data.sources.frames import Frame, quoted
from pipelines.errors import ConfigError

# The columns that the pass reads (`pipelines.data.sources.table_pass`): input, target, weight, split and name of a row, the file
# that it is from and its number there, and the block of rows in which its order is kept.
INPUT, TARGET, WEIGHT, SPLIT, ID, FILE, ROW, BLOCK = "x", "y", "w", "s", "i", "file", "row", "block"
_NUMBERS: tuple[ColumnKind, ...] = ("number", "boolean")
_SHOWN = 30


def check(frame: Frame, columns: Columns, data: DataConfig) -> None:
    """Raises ConfigError if a column is not there, or has a type that it cannot have."""
    several = "numbers, where several columns are named"
    one = (*_NUMBERS, "numbers", "vector"), "numbers, lists of numbers or vectors"
    kinds: dict[str, tuple[tuple[ColumnKind, ...], str]] = {
        "image": (INPUT_KINDS, "pictures, raw values, lists of numbers or vectors"),
        "features": (_NUMBERS, several) if len(columns.features) > 1 else ((*one[0], "binary"), one[1]),
        "label": ((*_NUMBERS, "text"), "text or whole numbers"),
        "weight": (_NUMBERS, "numbers"),
        "split": (("text",), "text: train, validation or test"),
        "id": ((*_NUMBERS, "text"), "text or numbers"),
    }
    if data.task == "regression":
        kinds["label"] = (_NUMBERS, several) if len(columns.label) > 1 else one
    for kind, setting in columns.as_setting().items():
        for name in [setting] if isinstance(setting, str) else setting:
            _check(frame, kind, name, *kinds[kind])


def _check(frame: Frame, kind: str, name: str, allowed: tuple[ColumnKind, ...], rule: str) -> None:
    kinds = {known.lower(): of_column for known, of_column in frame.kinds.items()}
    names = list(frame.kinds)
    if name.lower() not in kinds:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise ConfigError(f"data.columns.{kind}={name}: {frame.location} has no such column; {hint}it has {shown}")
    if kinds[name.lower()] not in allowed:
        actual = next(field for field in frame.rows.schema.fields if field.name.lower() == name.lower())
        raise ConfigError(
            f"data.columns.{kind}={name}: has type {actual.dataType.simpleString()[:80]} in {frame.location}; it must hold {rule}"
        )


def projection(frame: Frame, columns: Columns, data: DataConfig) -> list[str]:
    """Expressions for `INPUT` to `ID`, without those that are not there."""
    kinds = {name.lower(): kind for name, kind in frame.kinds.items()}
    one = columns.inputs[0]
    is_list = len(columns.inputs) > 1 or kinds[one.lower()] in _NUMBERS
    expressions = [f"{_list_of(columns.inputs) if is_list else quoted(one)} AS {INPUT}"]
    label = columns.label[0]
    if data.task == "classification":
        cast = {"text": "string", "boolean": "int"}.get(str(kinds[label.lower()]))
        expressions.append(f"{f'cast({quoted(label)} AS {cast})' if cast else quoted(label)} AS {TARGET}")
    else:
        is_list = len(columns.label) > 1 or kinds[label.lower()] in _NUMBERS
        expressions.append(f"{_list_of(columns.label) if is_list else quoted(label)} AS {TARGET}")
    for name, alias, cast in ((columns.weight, WEIGHT, "double"), (columns.split, SPLIT, "string"), (columns.id, ID, "string")):
        if name:
            expressions.append(f"cast({quoted(name)} AS {cast}) AS {alias}")
    return expressions


def _list_of(names: tuple[str, ...]) -> str:
    return f"array({', '.join(f'cast({quoted(name)} AS double)' for name in names)})"
