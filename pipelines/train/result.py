"""Results of a training. Plain data: the driver reads them without TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.train.precision import ResolvedPrecision


@dataclass(frozen=True)
class Score:
    """Loss and metrics of `rows` rows."""

    loss: float
    """Mean over the rows, without label smoothing and class weights: of classes the cross-entropy in nats, of numbers the loss of
    the standardized numbers."""
    metrics: Mapping[str, float]
    """Those of the task (`pipelines.tasks`), by name."""
    rows: int

    @property
    def accuracy(self) -> float:
        return self.metrics["accuracy"]

    def named(self, split: str) -> dict[str, float]:
        """Loss and metrics as a run records them, `SPLIT/NAME`."""
        return {f"{split}/loss": self.loss} | {f"{split}/{name}": value for name, value in self.metrics.items()}


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a training, equal on all ranks."""

    epochs: int
    best_epoch: int
    precision: ResolvedPrecision
    test: Score | None
    """Score of the logged model, over all of its views; None if test rows were not evaluated."""
    single_view: float | None
    """The task's first metric from the image alone; None if the logged model has no other view."""
    rows_per_second: float
    """Training rows per second in the last epoch, all workers together."""
    train_seconds: float
    """Time of the epochs including validation, without set-up and test."""
    weights_sha256: str
