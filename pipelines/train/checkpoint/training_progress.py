"""The progress of a training, which a checkpoint keeps besides weights and optimizer state."""

import math
from dataclasses import dataclass, field

from pipelines.train.checkpoint.state import Totals, Weights


@dataclass
class TrainingProgress:
    """The progress of a training and its metrics so far; equal on all ranks, except for `best_weights`."""

    epoch: int = 0
    """Number of complete epochs."""
    step: int = 0
    """Number of complete steps of the next epoch."""
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: Weights | None = None
    """The network as validated after `best_epoch`. Without early stopping on rank 0 only, for a resumption with it."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The metrics of each epoch."""
    dropout_calls: tuple[int, ...] = ()
    """Calls of each random generator, to resume inside an epoch (`RandomGenerators`)."""
    metric_totals: Totals = ()
    """What the epoch's metrics have summed up before a resumption inside it, until they are added to this process's own."""
    weights_sha256: str = ""

    def stops_early(self, patience: int) -> bool:
        return patience > 0 and self.epoch - self.best_epoch >= patience

    def is_complete(self, epochs: int, patience: int) -> bool:
        """Whether no epoch is left to train, with these values of the settings."""
        return self.epoch >= epochs or self.stops_early(patience)
