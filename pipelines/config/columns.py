"""The setting `data.columns`: which column of a Spark table holds what."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import ConfigError

_SETTING = "data.columns"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns. A column that is not named is not there."""

    label: tuple[str, ...] = ("label",)
    """The label; with `data.task: regression` the targets, in one column or several."""
    image: str = ""
    """Pictures or raw values. By default `image`, unless there are `features`."""
    features: tuple[str, ...] = ()
    """A column of lists or vectors, or several columns of numbers."""
    weight: str = ""
    """How much a row counts, from 0 on."""
    split: str = ""
    """`train`, `validation` or `test`."""
    id: str = ""
    """What messages call a row by."""

    @classmethod
    def of(cls, setting: Mapping[str, Any]) -> "Columns":
        """The columns in the setting. Raises ConfigError if it names another kind, no name, or a name twice."""
        kinds = [field.name for field in dataclasses.fields(cls)]
        lists = ("label", "features")
        for kind, name in setting.items():
            if kind not in kinds:
                near = difflib.get_close_matches(kind, kinds, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(kinds)}"
                raise ConfigError(f"{_SETTING}: unknown column {kind}; {hint}")
            are_names = all(isinstance(each, str) and each for each in _names(name))
            if not are_names or (kind not in lists and not isinstance(name, str)):
                rule = "the name of a column" + (", or a list of such names" if kind in lists else "")
                raise ConfigError(f"{_SETTING}.{kind}={name}: must be {rule}")
        named: dict[str, Any] = {kind: _names(name) if kind in lists else name for kind, name in setting.items()}
        columns = cls(**named)
        if columns.image and columns.features:
            raise ConfigError(f"{_SETTING}: has both image and features; name one of them")
        if not columns.features and not columns.image:
            columns = dataclasses.replace(columns, image="image")
        twice = next((name for name in columns.used if columns.used.count(name) > 1), "")
        if twice:
            raise ConfigError(f"{_SETTING}: names the column {twice} twice; what is predicted must not be among the inputs")
        return columns

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that a network takes."""
        return self.features or (self.image,)

    @property
    def used(self) -> tuple[str, ...]:
        """All columns that are named."""
        others = (name for name in (self.weight, self.split, self.id) if name)
        return (*self.inputs, *self.label, *others)

    def as_setting(self) -> dict[str, Any]:
        """The setting that gives these columns."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _names(name: Any) -> tuple[Any, ...]:
    return tuple(name) if isinstance(name, list | tuple) and name else (name,)
