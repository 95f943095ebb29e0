"""Common style of the figures: a question as title, the answer in a line below it, one palette, and the data as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with any color vision (https://jfly.uni-koeln.de/color/).
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
INK, GREY, LIGHT = "#222222", "#767676", "#E4E4E4"
SMALL, NORMAL, LARGE = 8.0, 9.5, 13.0

_DPI = 110


@dataclass(frozen=True)
class Drawing:
    """A figure and its data."""

    figure: "Figure"
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    """One sequence per row, with a value for each column."""

    def csv(self) -> str:
        """The data with a header line; floats with six significant digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_plain(value) for value in row] for row in self.rows)
        return text.getvalue()

    def png(self) -> bytes:
        """The picture as a PNG file."""
        content = io.BytesIO()
        self.figure.savefig(content, format="png", dpi=_DPI)
        return content.getvalue()


def new_figure(width: float, height: float, question: str, answer: str) -> "Figure":
    """An empty figure; sizes in inches. Title and answer are at the top left, above the axes."""
    # Unlike pyplot, Figure needs no display and has no state shared between threads.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    # The empty second line reserves space for the answer, which has another font.
    figure.suptitle(f"{question}\n", x=0.012, ha="left", fontsize=LARGE, fontweight="bold", color=INK)
    figure.text(0.012, 1 - 0.44 / height, answer, ha="left", va="center", fontsize=NORMAL, color=GREY, in_layout=False)
    return figure


def plain_axes(axes: "Axes", xlabel: str = "", ylabel: str = "") -> None:
    """Two spines, light grid lines, small labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=SMALL)
    axes.grid(color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=NORMAL, color=INK)
    axes.set_ylabel(ylabel, fontsize=NORMAL, color=INK)


def legend(axes: "Axes", **options: Any) -> None:
    axes.legend(frameon=False, fontsize=SMALL, labelcolor=INK, **options)


def picture_axes(axes: "Axes", columns: float, rows: float) -> None:
    """A canvas for tiles: square units, rows from the top, without axes."""
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_aspect("equal")
    axes.axis("off")


def tile(axes: "Axes", image: npt.NDArray[Any], column: float, row: float, size: float = 0.92, **options: Any) -> None:
    """Show an image [height, width] or [height, width, channels] in the square whose upper left corner is (column, row)."""
    height, width = image.shape[:2]
    tall, wide = size * height / max(height, width), size * width / max(height, width)
    left, top = column + (size - wide) / 2, row + (size - tall) / 2
    axes.imshow(image, extent=(left, left + wide, top + tall, top), interpolation="nearest", zorder=2, **options)


def displayable(image: npt.NDArray[Any], value_range: tuple[float, float]) -> npt.NDArray[np.float32]:
    """An image [height, width, channels] scaled to 0..1: grey [height, width], or in color if it has three channels."""
    low, high = value_range
    scaled = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    shown: npt.NDArray[np.float32] = scaled if scaled.shape[-1] == 3 else scaled.mean(axis=-1)
    return shown


def shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return value
