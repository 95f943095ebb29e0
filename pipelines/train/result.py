"""What comes out of a training. Plain data: the driver reads it without TensorFlow."""

from dataclasses import dataclass

from pipelines.train.precision import ResolvedPrecision


@dataclass(frozen=True)
class Score:
    """Means over `rows` rows."""

    loss: float
    accuracy: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Equal on all ranks."""

    epochs: int
    best_epoch: int
    precision: ResolvedPrecision
    test: Score | None
    """What the logged model does, over all its views; None where the test rows were left alone."""
    single_view_accuracy: float | None
    """On the test rows, by the image alone; None where the logged model has no other view."""
    rows_per_second: float
    """Of the last epoch, all workers together."""
    train_seconds: float
    """Epochs with their validation, without set-up and test."""
    weights_sha256: str
