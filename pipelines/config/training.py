"""The settings of section `training`: how a network is trained."""

from dataclasses import dataclass
from typing import Literal

from pipelines.config.rules import rule

Optimizer = Literal["adam", "adamw", "sgd", "lamb"]
Schedule = Literal["constant", "cosine", "step", "one_cycle"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Compression = Literal["none", "float16"]
LearningRateScaling = Literal["linear", "square_root", "none"]

TEST_VIEWS = (1, 5, 9)
# Beyond these an image leaves its frame or folds over itself.
_LARGEST_CHANGES = {
    "augment_shift": 0.5,
    "augment_rotation": 180.0,
    "augment_scale": 0.5,
    "augment_shear": 1.0,
    "augment_elastic": 0.2,
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The recipe."""

    epochs: int = 10
    batch_size_per_worker: int = 128
    optimizer: Optimizer = "adam"
    base_learning_rate: float = 0.001
    """Before it is scaled with the global batch."""
    learning_rate_scaling: LearningRateScaling = "linear"
    """How the rate grows with the global batch: as fast (Goyal et al. 2017, arXiv:1706.02677), as its square root (for Adam:
    Malladi et al. 2022, arXiv:2205.10287), or not at all."""
    learning_rate_batch: int = 0
    """The global batch that the base rate is meant for. 0: the batch of one worker, so that the rate grows with the workers."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate climbs from its base value to the scaled one, where that is larger."""
    schedule: Schedule = "constant"
    step_epochs: float = 10.0
    """With schedule `step`: epochs between two cuts."""
    step_factor: float = 0.1
    """With schedule `step`: what each cut multiplies by."""
    momentum: float = 0.0
    """With optimizer `sgd`; Nesterov's form where it is not 0."""
    weight_decay: float = 0.0
    """Decoupled from the gradient (Loshchilov and Hutter 2019, arXiv:1711.05101), with optimizers `adamw`, `sgd` and `lamb`."""
    clip_norm: float = 0.0
    """Largest length of the gradient, all weights together, after it was averaged over workers; 0 for no limit."""
    average_decay: float = 0.0
    """What an average over the steps keeps of itself in each, for example 0.999. Validation, test and the logged model then use
    the averaged weights (Polyak and Juditsky 1992). 0 for none."""
    label_smoothing: float = 0.0
    augment_shift: float = 0.0
    """Training images are moved by up to this share of height and width. What each image meets is drawn anew in every epoch."""
    augment_rotation: float = 0.0
    """Training images are turned by up to so many degrees, either way."""
    augment_scale: float = 0.0
    """Training images become from 1 - s to 1 + s times as high and, drawn apart, as wide."""
    augment_shear: float = 0.0
    """Training images are slanted by up to this tangent, either way."""
    augment_elastic: float = 0.0
    """Training images are warped: standard deviation of the displacement as a share of height and width; 0.05 is strong."""
    augment_flip: bool = False
    """Every second training image, by chance, is mirrored left to right: for things that look alike both ways, not for digits."""
    test_views: int = 1
    """The logged model answers with its mean over so many views of an image, of which it makes all but one by shifts of one
    pixel: 1, 5 (and four sides) or 9 (and corners). Test metrics are this model's."""
    precision: Precision = "auto"
    """auto: bfloat16 where the processor computes in it, else float32. float16, with a scaled loss, is for GPUs without bfloat16.
    Weights and the logged model stay float32."""
    accumulation_steps: int = 1
    """A worker computes its batch in so many parts, one after another: for batches that memory does not take at once."""
    compression: Compression = "none"
    """The type in which workers send each other their gradients. float16 halves the message: for slow networks."""
    steps_per_execution: int = 1
    """Steps that one call into TensorFlow runs. More of them cost a longer first trace."""
    custom_kernels: bool = True
    """Use Convoy's kernels instead of Keras': the same results up to rounding, with other random numbers. Adam is one operation
    per weight, dropout draws bytes, and gradients skip zeros where pooling and dropout follow a convolution (CPUs with Numba).
    false: Keras' own, to compare."""
    early_stopping_patience: int = 0
    """Stop after this many epochs without a better validation loss and keep the best weights; 0 trains all epochs."""
    seed: int = 1
    """Decides initial weights, dropout and the order of the rows."""

    def __post_init__(self) -> None:
        rule(self.epochs >= 1, "training.epochs", self.epochs, "at least 1")
        rule(self.batch_size_per_worker >= 1, "training.batch_size_per_worker", self.batch_size_per_worker, "at least 1")
        rule(self.base_learning_rate > 0, "training.base_learning_rate", self.base_learning_rate, "more than 0")
        rule(
            self.learning_rate_batch >= 0, "training.learning_rate_batch", self.learning_rate_batch, "1 or more, or 0 (automatic)"
        )
        rule(self.warmup_epochs >= 0, "training.warmup_epochs", self.warmup_epochs, "0 or more")
        rule(self.step_epochs > 0, "training.step_epochs", self.step_epochs, "more than 0")
        rule(0 < self.step_factor <= 1, "training.step_factor", self.step_factor, "more than 0, at most 1")
        rule(0 <= self.momentum < 1, "training.momentum", self.momentum, "from 0 to below 1")
        rule(
            self.momentum == 0 or self.optimizer == "sgd",
            "training.momentum",
            self.momentum,
            f"0 unless training.optimizer is sgd (it is {self.optimizer})",
        )
        rule(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        rule(
            self.weight_decay == 0 or self.optimizer != "adam",
            "training.weight_decay",
            self.weight_decay,
            "0 with training.optimizer adam; adamw is Adam with weight decay",
        )
        rule(self.clip_norm >= 0, "training.clip_norm", self.clip_norm, "more than 0, or 0 for no limit")
        rule(0 <= self.average_decay < 1, "training.average_decay", self.average_decay, "from 0 (no average) to below 1")
        for name, largest in _LARGEST_CHANGES.items():
            value = getattr(self, name)
            rule(0 <= value <= largest, f"training.{name}", value, f"from 0 (none) to {largest:g}")
        rule(self.test_views in TEST_VIEWS, "training.test_views", self.test_views, "1, 5 or 9")
        rule(0 <= self.label_smoothing < 1, "training.label_smoothing", self.label_smoothing, "from 0 to below 1")
        rule(
            self.accumulation_steps >= 1 and self.batch_size_per_worker % self.accumulation_steps == 0,
            "training.accumulation_steps",
            self.accumulation_steps,
            f"a divisor of training.batch_size_per_worker ({self.batch_size_per_worker}), which it cuts into equal parts",
        )
        rule(self.steps_per_execution >= 1, "training.steps_per_execution", self.steps_per_execution, "at least 1")
        rule(self.early_stopping_patience >= 0, "training.early_stopping_patience", self.early_stopping_patience, "0 or more")
