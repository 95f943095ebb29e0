"""The outputs of a cell, and the conversion of values to outputs."""

import io
import pprint
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.system.secrets import mask

# Maximum rows of a table. Databricks shows more, with paging, which a printed page does not have.
_ROWS = 20
_DPI = 110


@dataclass(frozen=True)
class Text:
    text: str
    stream: Literal["stdout", "stderr", "result"]


@dataclass(frozen=True)
class Html:
    html: str


@dataclass(frozen=True)
class ImageOutput:
    png: bytes
    description: str
    """Alternative text."""


@dataclass(frozen=True)
class CellError:
    traceback: str
    """Begins at the cell's own line."""


Output = Text | Html | ImageOutput | CellError


def displayed(value: object) -> Output:
    """The output of `display(value)`: data frames without their index, Spark's by their first rows."""
    if _is(value, "pyspark.sql", "DataFrame"):
        return _table(value.limit(_ROWS + 1).toPandas(), index=False)  # type: ignore[attr-defined]
    if _is(value, "pandas", "DataFrame"):
        return _table(value, index=False)
    return result(value)


def result(value: object) -> Output:
    """The output of a cell's last expression."""
    if _is(value, "matplotlib.figure", "Figure"):
        return figure_output(value)
    if _is(value, "pandas", "DataFrame"):
        return _table(value, index=True)
    if _is(value, "pandas", "Series"):
        value = _without_secrets(value)
    html = getattr(value, "_repr_html_", lambda: None)() if not isinstance(value, type) else None
    if html is not None:
        return Html(html)
    text = pprint.pformat(value, width=110, sort_dicts=False) if isinstance(value, dict | list | tuple | set) else repr(value)
    return Text(text, "result")


def figure_output(figure: Any) -> ImageOutput:
    """The output of a matplotlib figure. Its titles become the description."""
    png = io.BytesIO()
    figure.savefig(png, dpi=_DPI, format="png")
    # A figure's suptitle is among its texts.
    texts = [text.get_text() for text in figure.texts] + [axes.get_title() for axes in figure.axes]
    lines = [" ".join(text.split()) for text in texts]
    return ImageOutput(png.getvalue(), " ".join(filter(None, lines)) or "figure")


def open_figures() -> list[ImageOutput]:
    """Outputs of the `matplotlib.pyplot` figures that a cell left open. Closes them."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    images = [figure_output(pyplot.figure(number)) for number in pyplot.get_fignums()]
    pyplot.close("all")
    return images


class Stream(io.TextIOBase):
    """Replaces stdout or stderr. It is not a terminal, so programs write plain lines."""

    encoding = "utf-8"

    def __init__(self, stream: Literal["stdout", "stderr"], emit: Callable[[Output], None]) -> None:
        self._stream = stream
        self._emit = emit

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text:
            self._emit(Text(text, self._stream))
        return len(text)


def _table(frame: Any, *, index: bool) -> Html:
    more = f'<p class="more">the first {_ROWS} rows</p>' if len(frame) > _ROWS else ""
    shown = frame.head(_ROWS).apply(_without_secrets)
    return Html(shown.to_html(index=index, border=0, float_format=lambda number: f"{number:.5g}") + more)


def _without_secrets(column: Any) -> Any:
    """A column of a table with the credentials in its texts masked: pandas shows 50 characters, by which none would be found."""
    return column if column.dtype.kind in "biufcmM" else column.map(_without_secret)


def _without_secret(value: object) -> object:
    text = str(value)
    masked = mask(text)
    return value if masked == text else masked


def _is(value: object, module: str, name: str) -> bool:
    """`isinstance` without importing the class's library."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))
