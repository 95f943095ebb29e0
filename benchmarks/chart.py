"""A chart of the ratios of one invocation."""

import statistics
from pathlib import Path


def draw(ratios: dict[str, list[float]], file: Path) -> None:
    """A bar for each median, a line for the range. Ratios above 1 are faster than what Convoy is compared with."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.5 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(reversed(ratios.values())):
        median = statistics.median(values)
        axes.barh(place, median, color="tab:blue")
        axes.hlines(place, min(values), max(values), color="black")
        axes.text(max(values), place, f"  {median:.2f}", va="center")
    axes.set_yticks(range(len(ratios)), list(reversed(ratios)))
    axes.axvline(1, color="grey", linestyle="dotted")
    axes.set_xlabel("ratio, median and range; higher is faster")
    axes.margins(x=0.15)
    figure.savefig(file, dpi=120)
