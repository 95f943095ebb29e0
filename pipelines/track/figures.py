"""Figures of a run, drawn from its numbers. Nothing here needs TensorFlow or MLflow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(history: Sequence[Mapping[str, float]], title: str) -> "Figure":
    """Loss and accuracy of training and validation over epochs, the gap between them shaded.

    Args:
        history: one mapping an epoch, with `train/loss`, `train/accuracy` and, where there is validation, `validation/...`.
        title: above both panels.
    """
    # The object interface draws without a display and without state that other threads could share.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    epochs = range(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        train = [epoch[f"train/{name}"] for epoch in history]
        axes.plot(epochs, train, marker="o", markersize=3, label="train")
        validation = [epoch[f"validation/{name}"] for epoch in history if f"validation/{name}" in epoch]
        if len(validation) == len(train):
            axes.plot(epochs, validation, marker="o", markersize=3, label="validation")
            axes.fill_between(epochs, train, validation, alpha=0.12, color="tab:orange")
            best = min if name == "loss" else max
            best_epoch = validation.index(best(validation)) + 1
            axes.axvline(best_epoch, color="grey", linestyle=":", linewidth=1, label=f"best epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        axes.grid(alpha=0.3)
    return figure
