"""Where did the time go? Phases of a run, in one lane for the driver and one per worker."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "Where did the time go?"
# More lanes would be unreadable; the data has all of them.
_LANES = 9
# Fraction of the total below which a phase has no room for its name.
_MIN_LABELED = 0.035
_COLORS = {
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
    """A phase of a run."""

    lane: str
    """`driver` or `rank K`."""
    name: str
    """Name, with a number if it repeats, as in `epoch 3`."""
    start: float
    stop: float
    """Seconds since the job was submitted."""


def draw(phases: Sequence[Phase]) -> Drawing:
    """Bars over seconds, lanes in the order of their first phase. Needs at least one phase."""
    lanes = list(dict.fromkeys(phase.lane for phase in phases))[:_LANES]
    end = max(phase.stop for phase in phases)
    figure = style.new_figure(11, max(1.6 + 0.5 * len(lanes), 2.9), QUESTION, _answer(phases, end))
    axes = figure.subplots()
    style.plain_axes(axes, "seconds since the job was submitted")
    axes.grid(axis="y", visible=False)
    for phase in phases:
        if phase.lane not in lanes:
            continue
        row, seconds = lanes.index(phase.lane), phase.stop - phase.start
        color = _COLORS.get(_kind(phase), style.GREY)
        axes.barh(row, seconds, left=phase.start, height=0.66, color=color, edgecolor="white", linewidth=0.8)
        if seconds > _MIN_LABELED * end:
            # A letter takes about a hundredth of the width.
            text = style.shortened(phase.name, max(2, int(110 * seconds / end)))
            middle = phase.start + seconds / 2
            axes.text(middle, row, text, ha="center", va="center", fontsize=style.SMALL, color="white", clip_on=True)
    for kind in dict.fromkeys(_kind(phase) for phase in phases if phase.lane in lanes):
        axes.barh(0, 0, color=_COLORS.get(kind, style.GREY), label=kind)
    style.legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_xlim(0, end * 1.01)
    rows = [(phase.lane, phase.name, phase.start, phase.stop - phase.start) for phase in phases]
    return Drawing(figure, ("lane", "phase", "start", "seconds"), rows)


def _kind(phase: Phase) -> str:
    return phase.name.rstrip("0123456789 ")


def _answer(phases: Sequence[Phase], end: float) -> str:
    """The longest phases of driver and first rank, those of one kind summed."""
    lanes = list(dict.fromkeys(phase.lane for phase in phases))[:2]
    seconds: dict[str, float] = {}
    for phase in phases:
        if phase.lane in lanes:
            kind = "epochs" if _kind(phase) == "epoch" else _kind(phase)
            seconds[kind] = seconds.get(kind, 0.0) + phase.stop - phase.start
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:4]
    return f"{end:.1f} s in total;  " + ", ".join(f"{kind} {took:.1f} s" for kind, took in largest)
