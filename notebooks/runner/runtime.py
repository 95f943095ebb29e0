"""What a cell finds on Databricks without importing it, as far as it makes sense on a laptop.

`dbutils.widgets`, `dbutils.notebook.exit`, `display`, `displayHTML`, `spark`, `sc`. What is missing says so when it is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from notebooks.runner import outputs
from notebooks.runner.outputs import Output


class Exit(BaseException):
    """`dbutils.notebook.exit`: the notebook ends here, and well. Not an Exception, so that no cell swallows it by accident."""


class Widgets:
    """Named inputs. Values are texts, as on Databricks; `given` wins over a widget's default."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = dict(given)
        self._values: dict[str, str] = {}

    def text(self, name: str, defaultValue: str, label: str = "") -> None:
        self._values[name] = self._given.get(name, defaultValue)

    def dropdown(self, name: str, defaultValue: str, choices: Sequence[str], label: str = "") -> None:
        value = self._given.get(name, defaultValue)
        if value not in choices:
            raise ValueError(f"widget {name}={value}: must be one of {', '.join(choices)}")
        self._values[name] = value

    def combobox(self, name: str, defaultValue: str, choices: Sequence[str], label: str = "") -> None:
        self.text(name, defaultValue)

    def multiselect(self, name: str, defaultValue: str, choices: Sequence[str], label: str = "") -> None:
        value = self._given.get(name, defaultValue)
        for part in value.split(","):
            if part not in choices:
                raise ValueError(f"widget {name}={value}: must be some of {', '.join(choices)}, with commas between")
        self._values[name] = value

    def get(self, name: str) -> str:
        if name not in self._values:
            raise KeyError(f"there is no widget '{name}'; there are {', '.join(self._values) or 'none'}")
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
        raise AttributeError(f"dbutils.{name} is only there on Databricks; here are dbutils.widgets and dbutils.notebook.exit")


def names(widgets: Widgets, spark: Any, emit: Callable[[Output], None]) -> dict[str, Any]:
    """What cells find without importing it.

    Args:
        widgets: behind `dbutils.widgets`.
        spark: a SparkSession.
        emit: is given what `display` and `displayHTML` show.
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
