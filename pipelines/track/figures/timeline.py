"""Where did the time go? The phases of a run, driver and workers in a lane each."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "Where did the time go?"
# Lanes that can still be read; the numbers hold all of them.
_LANES = 9
# Shares below this have no room for their name.
_WRITTEN = 0.035
_COLOURS = {
    "set-up": style.GREY,
    "ingest": style.SKY,
    "launch": style.PURPLE,
    "first step": "#B55A8F",
    "epoch": style.BLUE,
    "validation": style.ORANGE,
    "test": style.GREEN,
    "saving": style.RED,
    "logging": "#8C4A2F",
}


@dataclass(frozen=True)
class Phase:
    """Something that took time."""

    lane: str
    """Who did it: driver, rank 0, ..."""
    name: str
    """What it was; a number behind the name tells repetitions apart, as in `epoch 3`."""
    start: float
    stop: float
    """Seconds since the job was submitted."""


def draw(phases: Sequence[Phase]) -> Drawing:
    """Bars over seconds. Lanes stand in the order of their first phase; at least one phase is needed."""
    lanes = list(dict.fromkeys(phase.lane for phase in phases))[:_LANES]
    end = max(phase.stop for phase in phases)
    figure = style.new_figure(11, max(1.6 + 0.5 * len(lanes), 2.9), QUESTION, _answer(phases, end))
    axes = figure.subplots()
    style.plain_axes(axes, "seconds since the job was submitted")
    axes.grid(axis="y", visible=False)
    for phase in phases:
        if phase.lane not in lanes:
            continue
        place, seconds = lanes.index(phase.lane), phase.stop - phase.start
        colour = _COLOURS.get(_kind(phase), style.GREY)
        axes.barh(place, seconds, left=phase.start, height=0.66, color=colour, edgecolor="white", linewidth=0.8)
        if seconds > _WRITTEN * end:
            # Letters are about a hundredth of the width; what does not fit is cut.
            text = style.shortened(phase.name, max(2, int(110 * seconds / end)))
            middle = phase.start + seconds / 2
            axes.text(middle, place, text, ha="center", va="center", fontsize=style.SMALL, color="white", clip_on=True)
    for kind in dict.fromkeys(_kind(phase) for phase in phases if phase.lane in lanes):
        axes.barh(0, 0, color=_COLOURS.get(kind, style.GREY), label=kind)
    style.legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_xlim(0, end * 1.01)
    rows = [(phase.lane, phase.name, phase.start, phase.stop - phase.start) for phase in phases]
    return Drawing(figure, ("lane", "phase", "start", "seconds"), rows)


def _kind(phase: Phase) -> str:
    return phase.name.rstrip("0123456789 ")


def _answer(phases: Sequence[Phase], end: float) -> str:
    """The largest shares of the first rank and of the driver, phases of one kind together."""
    lanes = list(dict.fromkeys(phase.lane for phase in phases))[:2]
    seconds: dict[str, float] = {}
    for phase in phases:
        if phase.lane in lanes:
            kind = "epochs" if _kind(phase) == "epoch" else _kind(phase)
            seconds[kind] = seconds.get(kind, 0.0) + phase.stop - phase.start
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:4]
    return f"{end:.1f} s in all;  " + ", ".join(f"{kind} {took:.1f} s" for kind, took in largest)
