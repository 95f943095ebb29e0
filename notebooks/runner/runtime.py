"""The globals of a cell on Databricks that make sense on a laptop.

`dbutils.widgets`, `dbutils.notebook.exit`, `display`, `displayHTML`, `spark`, `sc`. Using any other part of `dbutils` raises an
error that says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from notebooks.runner import outputs
from notebooks.runner.outputs import Output


class Exit(BaseException):
    """`dbutils.notebook.exit`: a normal end of the notebook. Not an Exception, so that no cell catches it by accident."""


class Widgets:
    """Named inputs. Values are strings, as on Databricks; `overrides` replace the widgets' defaults."""

    def __init__(self, overrides: Mapping[str, str]) -> None:
        self._overrides = dict(overrides)
        self._values: dict[str, str] = {}

    def text(self, name: str, defaultValue: str, label: str = "") -> None:
        self._values[name] = self._overrides.get(name, defaultValue)

    def dropdown(self, name: str, defaultValue: str, choices: Sequence[str], label: str = "") -> None:
        value = self._overrides.get(name, defaultValue)
        if value not in choices:
            raise ValueError(f"widget {name}={value}: must be one of {', '.join(choices)}")
        self._values[name] = value

    def combobox(self, name: str, defaultValue: str, choices: Sequence[str], label: str = "") -> None:
        self.text(name, defaultValue)

    def multiselect(self, name: str, defaultValue: str, choices: Sequence[str], label: str = "") -> None:
        value = self._overrides.get(name, defaultValue)
        for part in value.split(","):
            if part not in choices:
                raise ValueError(f"widget {name}={value}: must be a comma-separated list of {', '.join(choices)}")
        self._values[name] = value

    def get(self, name: str) -> str:
        if name not in self._values:
            raise KeyError(f"no widget '{name}'; must be one of {', '.join(self._values) or '(none)'}")
        return self._values[name]

    def getAll(self) -> dict[str, str]:
        return dict(self._values)

    def remove(self, name: str) -> None:
        self._values.pop(name, None)

    def removeAll(self) -> None:
        self._values.clear()


class _NotebookUtils:
    def exit(self, value: object = "") -> NoReturn:
        raise Exit(str(value))


@dataclass(frozen=True)
class DbUtils:
    widgets: Widgets
    notebook: _NotebookUtils = field(default_factory=_NotebookUtils)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"dbutils.{name} exists only on Databricks; use dbutils.widgets or dbutils.notebook.exit here")


def cell_globals(widgets: Widgets, spark: Any, emit: Callable[[Output], None]) -> dict[str, Any]:
    """The predefined globals of the cells.

    Args:
        widgets: `dbutils.widgets`.
        spark: a SparkSession.
        emit: receives the outputs of `display` and `displayHTML`.
    """

    def display(*values: object, **_options: object) -> None:
        for value in values:
            emit(outputs.displayed(value))

    def display_html(html: str) -> None:
        emit(outputs.Html(html))

    return {
        "dbutils": DbUtils(widgets),
        "spark": spark,
        "sc": getattr(spark, "sparkContext", None),
        "display": display,
        "displayHTML": display_html,
    }
