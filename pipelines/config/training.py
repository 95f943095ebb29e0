"""The settings of section `training`."""

from dataclasses import dataclass
from typing import Literal

from pipelines.config.rules import bounds, one_of, rule

Optimizer = Literal["adam", "adamw", "sgd", "lamb"]
Schedule = Literal["constant", "cosine", "step", "one_cycle"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Compression = Literal["none", "float16"]
ClassWeighting = Literal["none", "balanced"]
LearningRateScaling = Literal["linear", "square_root", "none"]

TEST_VIEWS = (1, 5, 9)
_MANY, _MAX_BATCH, _MAX_SHARDS = 10**6, 2**31 - 1, 2**16
# Numbers that remain finite and above 0 in float32.
_SMALLEST_RATE, _LARGEST_RATE, _LARGEST = 1e-30, 1e30, 1e9
# Beyond these an image leaves its frame or folds over itself.
_AUGMENTATION_LIMITS = {
    "augment_shift": 0.5,
    "augment_rotation": 180.0,
    "augment_scale": 0.5,
    "augment_shear": 1.0,
    "augment_elastic": 0.2,
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained: optimizer, schedule, augmentation, precision."""

    epochs: int = 10
    batch_size_per_worker: int = 128
    """Less is taken, with a warning, if the table has fewer training rows than the workers' batches."""
    optimizer: Optimizer = "adam"
    base_learning_rate: float = 0.001
    """Before scaling with the global batch."""
    learning_rate_scaling: LearningRateScaling = "linear"
    """How the rate scales with the global batch: linearly (Goyal et al. 2017, arXiv:1706.02677), with its square root (for Adam:
    Malladi et al. 2022, arXiv:2205.10287), or not at all."""
    learning_rate_batch: int = 0
    """The global batch for which the base rate is meant. 0: the batch of one worker, so that the rate scales with the workers."""
    warmup_epochs: float = 1.0
    """Epochs of linear warmup from the base learning rate to the scaled one, if that is larger."""
    schedule: Schedule = "constant"
    step_epochs: float = 10.0
    """With schedule `step`: epochs between decays."""
    step_factor: float = 0.1
    """With schedule `step`: factor of each decay."""
    momentum: float = 0.0
    """With optimizer `sgd`: Nesterov momentum."""
    weight_decay: float = 0.0
    """Decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), with optimizers `adamw`, `sgd` and `lamb`."""
    clip_norm: float = 0.0
    """Largest global norm of the gradient, applied after averaging over workers; 0 for no limit."""
    average_decay: float = 0.0
    """Decay per step of an exponential moving average of the weights, for example 0.999. Validation, test and the logged model
    then use the averaged weights (Polyak and Juditsky 1992). 0 for none."""
    class_weights: ClassWeighting | tuple[float, ...] = "none"
    """How much the rows of each class count in the training loss. balanced: each class as much as any other, the rows of class c
    by (rows / classes / rows of c) of the training split. A list: the weight of each class, in the order of `data.labels`, as
    Keras' `class_weight`."""
    label_smoothing: float = 0.0
    augment_shift: float = 0.0
    """Shift training images by up to this share of height and width. Augmentation is drawn anew in every epoch."""
    augment_rotation: float = 0.0
    """Rotate training images by up to this many degrees, either way."""
    augment_scale: float = 0.0
    """Scale height and width of training images independently by factors from 1 - s to 1 + s."""
    augment_shear: float = 0.0
    """Shear training images by up to this tangent of the angle, either way."""
    augment_elastic: float = 0.0
    """Elastic distortion: standard deviation of the displacement as a share of height and width of the image; 0.05 is strong."""
    augment_flip: bool = False
    """Flip training images left to right with probability 1/2: for objects that look alike both ways, not for digits."""
    test_views: int = 1
    """Test-time augmentation: the logged model averages its prediction over this many views of an image, shifted by one pixel:
    1 (unshifted only), 5 (and four sides) or 9 (and corners). Test metrics are this model's."""
    precision: Precision = "auto"
    """auto: bfloat16 if the processor supports it, otherwise float32. float16, with loss scaling, is for GPUs without bfloat16.
    Weights and the logged model stay float32."""
    accumulation_steps: int = 1
    """Gradient accumulation: a worker computes its batch in this many parts, for batches that do not fit in memory at once."""
    canonical_shards: int = 0
    """Train as this many workers would, whatever the number of workers, which must divide it: each takes an equal number of the
    shards. Batch, learning rate, order of the rows, augmentation and dropout are then the same with any number of workers. 0: as
    many as workers, so that another number of workers is another training."""
    compression: Compression = "none"
    """Data type in which workers exchange gradients. float16 halves the message, for slow networks."""
    bucket_mb: float = 1.0
    """Between machines, gradients of at least this size are sent while the backward pass goes on with the layers before; smaller
    ones are sent together. 0 sends each by itself."""
    steps_per_execution: int = 1
    """Steps per call into TensorFlow. Keras older than 3.7, as in Databricks Runtime 15.4 and 17.3, takes one in any case."""
    custom_kernels: bool = True
    """Use Convoy's kernels instead of Keras': the same results up to rounding, with other random numbers. Adam is four
    operations per weight, dropout draws bytes, and gradients skip zeros where pooling and dropout follow a convolution (CPUs
    with Numba). false: Keras' own, to compare."""
    early_stopping_patience: int = 0
    """Stop after this many epochs without a better validation loss and restore the best weights; 0 trains all epochs."""
    seed: int = 1
    """Determines initial weights, dropout and the order of the rows."""
    loss: str = ""
    """Loss of training, validation and test: by Keras' name, such as `huber`, or import path as in `model.name`. Empty: `LOSS` of
    your network's module, or that of the task."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the task's, by Keras' names or import paths. They must be means over rows. Empty: `METRICS` of your
    network's module, if it has any."""
    callbacks: tuple[str, ...] = ()
    """Keras callbacks by import path: classes or functions without arguments. They run on rank 0, or on all ranks with `all:`
    before the path."""

    @property
    def bucket_bytes(self) -> int:
        return int(self.bucket_mb * 1e6)

    def __post_init__(self) -> None:
        bounds("training.epochs", self.epochs, 1, _MANY)
        bounds("training.batch_size_per_worker", self.batch_size_per_worker, 1, _MAX_BATCH)
        rate = self.base_learning_rate
        bounds("training.base_learning_rate", rate, _SMALLEST_RATE, _LARGEST_RATE)
        bounds("training.learning_rate_batch", self.learning_rate_batch, 0, _MAX_BATCH, "1 or more, or 0 (automatic)")
        bounds("training.warmup_epochs", self.warmup_epochs, 0, _MANY)
        bounds("training.step_epochs", self.step_epochs, 1 / _MANY, _MANY)
        bounds("training.step_factor", self.step_factor, 1 / _MANY, 1)
        bounds("training.momentum", self.momentum, 0, 0.9999)
        rule(
            self.momentum == 0 or self.optimizer == "sgd",
            "training.momentum",
            self.momentum,
            f"0 unless training.optimizer is sgd (it is {self.optimizer})",
        )
        bounds("training.weight_decay", self.weight_decay, 0, _LARGEST)
        rule(
            self.weight_decay == 0 or self.optimizer != "adam",
            "training.weight_decay",
            self.weight_decay,
            "0 with training.optimizer adam; adamw is Adam with weight decay",
        )
        smallest_norm = f"at least {1 / _MANY:g}, or 0 for no limit"
        bounds("training.clip_norm", self.clip_norm, 1 / _MANY, _LARGEST, smallest_norm, or_zero=True)
        bounds("training.average_decay", self.average_decay, 0, 0.999999, "0 (no average) or more")
        for name, largest in _AUGMENTATION_LIMITS.items():
            bounds(f"training.{name}", getattr(self, name), 0, largest, "0 (none) or more")
        one_of("training.test_views", self.test_views, TEST_VIEWS)
        weights = self.class_weights
        rule(
            isinstance(weights, str) or (all(0 <= each <= _LARGEST for each in weights) and sum(weights) > 0),
            "training.class_weights",
            weights,
            f"numbers from 0 to {_LARGEST:,g}, not all 0",
        )
        bounds("training.label_smoothing", self.label_smoothing, 0, 0.999999)
        bounds("training.accumulation_steps", self.accumulation_steps, 1, _MAX_BATCH)
        rule(
            self.batch_size_per_worker % self.accumulation_steps == 0,
            "training.accumulation_steps",
            self.accumulation_steps,
            f"a divisor of training.batch_size_per_worker ({self.batch_size_per_worker}), which it divides into equal parts",
        )
        bounds("training.canonical_shards", self.canonical_shards, 0, _MAX_SHARDS, "1 or more, or 0 (as many as workers)")
        bounds("training.bucket_mb", self.bucket_mb, 0, _MANY)
        bounds("training.steps_per_execution", self.steps_per_execution, 1, _MANY)
        bounds("training.early_stopping_patience", self.early_stopping_patience, 0, _MANY)
        bounds("training.seed", self.seed, 0, 2**32 - 1)
        rule(
            not self.loss or self.label_smoothing == 0,
            "training.label_smoothing",
            self.label_smoothing,
            f"0 when training.loss is set ({self.loss}); smooth the targets in a loss of your own",
        )
        for entry in self.callbacks:
            rule(":" in entry.removeprefix("all:"), "training.callbacks", entry, "package.module:Class or path/to/file.py:Class")
