"""How far a training has come. This is what a checkpoint keeps beside weights and optimizer state."""

import math
from dataclasses import dataclass, field

from pipelines.train.checkpoint.state import Weights


@dataclass
class TrainingProgress:
    """How far a training has come, and what it found on the way. Equal on all ranks."""

    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Steps of the next epoch that are complete."""
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: Weights | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    """The metrics of each epoch."""
    dropout_calls: tuple[int, ...] = ()
    """Where a training goes on inside an epoch: see `RandomGenerators`."""
    weights_sha256: str = ""

    def stops_early(self, patience: int) -> bool:
        return patience > 0 and self.epoch - self.best_epoch >= patience
