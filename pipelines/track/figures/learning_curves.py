"""Does it learn, and does it overfit? Training and validation loss and a metric by epoch."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "Does it learn, and does it overfit?"


class ShownMetric(Protocol):
    """What is shown beside the loss (`pipelines.tasks.metric.Metric`)."""

    @property
    def name(self) -> str: ...

    @property
    def in_percent(self) -> bool: ...


def draw(history: Sequence[Mapping[str, float]], title: str, metric: ShownMetric) -> Drawing:
    """The gap between training and validation is shaded, the epoch with the lowest validation loss marked.

    Args:
        history: one mapping per epoch, at least one, with `train/loss`, `train/METRIC` and, if there is validation,
            `validation/loss` and `validation/METRIC`.
        title: identifies the run, in the line below the question.
        metric: what is shown beside the loss.
    """
    validated = all("validation/loss" in epoch for epoch in history)
    splits = ("train", "validation") if validated else ("train",)
    losses = [epoch[f"{splits[-1]}/loss"] for epoch in history]
    best = min(range(len(losses)), key=losses.__getitem__)
    figure = style.new_figure(10, 4.4, QUESTION, _answer(history, best, validated, title, metric))
    epochs = range(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric.name), strict=True):
        curves = {split: [epoch[f"{split}/{name}"] for epoch in history] for split in splits}
        style.plain_axes(axes, "epoch", name)
        for split, colour in zip(splits, (style.BLUE, style.ORANGE), strict=False):
            axes.plot(epochs, curves[split], color=colour, marker="o", markersize=3.5, linewidth=1.8, label=split)
        if validated:
            axes.fill_between(epochs, curves["train"], curves["validation"], alpha=0.15, color=style.ORANGE, label="gap")
            axes.axvline(best + 1, color=style.GREY, linestyle=":", linewidth=1)
            value = curves["validation"][best]
            axes.plot([best + 1], [value], marker="o", markersize=9, markerfacecolor="none", color=style.RED, linestyle="none")
            axes.plot([], [], marker="o", markerfacecolor="none", color=style.RED, linestyle="none", label=f"best: {value:.4f}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        style.legend(axes)
    columns = ("epoch", *(f"{split}/{name}" for split in splits for name in ("loss", metric.name)))
    rows = [(number, *(epoch[column] for column in columns[1:])) for number, epoch in enumerate(history, 1)]
    return Drawing(figure, columns, rows)


def _answer(history: Sequence[Mapping[str, float]], best: int, validated: bool, title: str, metric: ShownMetric) -> str:
    parts = [title] if title else []
    if validated:
        last = history[-1]
        gap = last[f"train/{metric.name}"] - last[f"validation/{metric.name}"]
        size = f"{abs(100 * gap):.2f} points" if metric.in_percent else f"{metric.name} is {abs(gap):.4g}"
        parts.append(f"lowest validation loss in epoch {best + 1} of {len(history)}")
        subject = "training is" if metric.in_percent else "training"
        parts.append(f"at the end {subject} {size} {'above' if gap >= 0 else 'below'} validation")
    else:
        parts.append("no validation rows: overfitting cannot be seen")
    return ";  ".join(parts)
