"""Which run learns better? Learning curves of several runs in one figure."""

from collections.abc import Mapping, Sequence

from pipelines.track.figures import style
from pipelines.track.figures.style import Drawing

QUESTION = "Which run learns better?"
_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.PURPLE, style.SKY)
# More curves could not be distinguished.
RUNS = len(_COLOURS)


def draw(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Drawing:
    """One color per run; validation is solid, training dashed.

    Args:
        histories: by name of the run, one mapping per epoch with `train/loss`, `train/accuracy` and, if there is validation,
            `validation/loss` and `validation/accuracy`. At most `RUNS` runs, each with at least one epoch.
    """
    figure = style.new_figure(10, 4.4, QUESTION, _answer(histories))
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        style.plain_axes(axes, "epoch", name)
        for colour, (run, history) in zip(_COLOURS, histories.items(), strict=False):
            epochs = range(1, len(history) + 1)
            dashed = _validated(history)
            training = [epoch[f"train/{name}"] for epoch in history]
            axes.plot(
                epochs, training, color=colour, linewidth=1.2, linestyle="--" if dashed else "-", label="" if dashed else run
            )
            if dashed:
                validation = [epoch[f"validation/{name}"] for epoch in history]
                axes.plot(epochs, validation, color=colour, marker="o", markersize=3.5, linewidth=1.8, label=run)
        axes.plot([], [], color=style.GREY, linewidth=1.2, linestyle="--", label="training rows")
        axes.xaxis.get_major_locator().set_params(integer=True)
        style.legend(axes)
    columns = ("run", "epoch", "train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
    rows = [
        (run, number, *(epoch.get(column, "") for column in columns[2:]))
        for run, history in histories.items()
        for number, epoch in enumerate(history, 1)
    ]
    return Drawing(figure, columns, rows)


def _validated(history: Sequence[Mapping[str, float]]) -> bool:
    return all("validation/loss" in epoch for epoch in history)


def _answer(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Best accuracy of each run, on validation rows if there are any."""
    parts = []
    for run, history in histories.items():
        split = "validation" if _validated(history) else "train"
        accuracies = [epoch[f"{split}/accuracy"] for epoch in history]
        best = max(range(len(history)), key=accuracies.__getitem__)
        parts.append(f"{style.shortened(run, 24)} {100 * accuracies[best]:.2f} % in epoch {best + 1}")
    return "best accuracy: " + ";  ".join(parts)
