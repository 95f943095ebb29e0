"""Which settings lead to which result? Trials of a sweep as lines across one axis per setting and one for the outcome."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUESTION = "Which settings lead to which result?"

_TICKS = 5


def draw(
    trials: Sequence[Mapping[str, Any]],
    axes: Sequence[str],
    metric: str,
    *,
    minimised: bool,
    texts: Mapping[str, Sequence[str]],
    log: Sequence[str] = (),
    title: str = "",
) -> Drawing:
    """Good trials are dark, bad ones light, the best one red; trials without an outcome are dotted.

    Args:
        trials: one mapping per trial with a value for every axis, for `metric` (None if it has none) and its number, `trial`.
        axes: the settings.
        metric: the outcome.
        minimised: whether small outcomes are good.
        texts: labels of the axes that are not numeric, from the bottom, evenly spaced.
        log: axes with a logarithmic scale.
        title: identifies the sweep, in the line below the question.
    """
    outcomes = sorted((trial[metric] for trial in trials if trial[metric] is not None), reverse=not minimised)
    names = [*axes, metric]
    scales = {
        name: _Scale([trial[name] for trial in trials if trial[name] is not None], texts.get(name, ()), name in log)
        for name in names
    }
    figure = style.new_figure(max(6.0, 1.8 * len(names)), 4.8, QUESTION, _answer(trials, outcomes, metric, title))
    plot = figure.subplots()
    for trial in sorted(trials, key=lambda trial: _badness(trial[metric], outcomes), reverse=True):
        shown = [name for name in names if trial[name] is not None]
        heights = [scales[name].height(trial[name]) for name in shown]
        plot.plot([names.index(name) for name in shown], heights, **_line(_badness(trial[metric], outcomes)))
    for position, name in enumerate(names):
        _axis(plot, position, scales[name])
    plot.set_xticks(range(len(names)), names, fontsize=style.NORMAL, color=style.INK)
    plot.set_xlim(-0.15, len(names) - 0.6)
    plot.set_ylim(-0.06, 1.06)
    plot.set_yticks([])
    plot.spines[:].set_visible(False)
    plot.tick_params(length=0)
    columns = ("trial", *names)
    return Drawing(figure, columns, [[trial[name] for name in columns] for trial in trials])


class _Scale:
    """Maps the values of an axis to 0..1."""

    def __init__(self, values: Sequence[Any], texts: Sequence[str], log: bool) -> None:
        self._texts = list(texts)
        self._log = log
        numbers = [float(self._to_scale(value)) for value in values] if not self._texts else [0.0, len(self._texts) - 1.0]
        self._low, self._high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)

    def height(self, value: Any) -> float:
        """Height of a value, 0.5 if all trials have the same."""
        number = self._texts.index(str(value)) if self._texts else self._to_scale(value)
        return (number - self._low) / (self._high - self._low) if self._high > self._low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Height and label of each tick."""
        if self._texts:
            return [(self.height(text), style.shortened(text, 18)) for text in self._texts]
        if self._high == self._low:
            return [(0.5, f"{self._from_scale(self._low):.3g}")]
        shares = [number / (_TICKS - 1) for number in range(_TICKS)]
        return [(share, f"{self._from_scale(self._low + share * (self._high - self._low)):.3g}") for share in shares]

    def _to_scale(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def _from_scale(self, number: float) -> float:
        return 10**number if self._log else number


def _badness(outcome: float | None, outcomes: Sequence[float]) -> float:
    """0 for the best, 1 for the worst, 2 for none. By rank, because one outlier would make all other trials look alike."""
    if outcome is None:
        return 2.0
    return outcomes.index(outcome) / max(len(outcomes) - 1, 1)


def _line(badness: float) -> dict[str, Any]:
    if badness == 2.0:
        return {"color": style.GREY, "linewidth": 0.8, "linestyle": ":", "alpha": 0.7}
    if badness == 0.0:
        return {"color": style.RED, "linewidth": 2.4}
    return {"color": style.BLUE, "linewidth": 1.3, "alpha": 0.9 - 0.7 * badness}


def _axis(plot: "Axes", position: int, scale: _Scale) -> None:
    plot.axvline(position, color=style.GREY, linewidth=1, zorder=0)
    for height, text in scale.ticks:
        plot.annotate(
            text,
            (position, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=style.SMALL,
            color=style.INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            zorder=5,
        )


def _answer(trials: Sequence[Mapping[str, Any]], outcomes: Sequence[float], metric: str, title: str) -> str:
    parts = [title] if title else []
    parts.append(f"{len(trials)} trial{'' if len(trials) == 1 else 's'}")
    if outcomes:
        best = next(trial for trial in trials if trial[metric] == outcomes[0])
        parts.append(f"best (red): trial {best['trial']}, {metric} {outcomes[0]:.4g}")
    return ";  ".join(parts)
