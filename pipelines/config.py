"""Every setting of a run: its name, type, default, unit and rule.

Defaults live here and nowhere else. A YAML file states what differs from them, `--set section.key=value` what differs from
the file (`pipelines.configfile`). A setting that breaks a rule is a `ConfigError` that names key, value, rule and remedy.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.errors import ConfigError
from pipelines.secrets import MASK

Optimizer = Literal["adam", "adamw", "sgd", "lamb"]
Schedule = Literal["constant", "cosine", "step", "one_cycle"]
Precision = Literal["auto", "float32", "bfloat16"]
LearningRateScaling = Literal["linear", "square_root", "none"]
OnBadRows = Literal["fail", "quarantine"]

TEST_VIEWS = (1, 5, 9)
# Beyond these an image leaves its frame or folds over itself.
_LARGEST_CHANGES = {
    "augment_shift": 0.5,
    "augment_rotation": 180.0,
    "augment_scale": 0.5,
    "augment_shear": 1.0,
    "augment_elastic": 0.2,
}
_LARGEST_FLOAT32 = 3.4028234e38
_LARGEST_LABEL = 2**53
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the source holds. Nothing here is guessed from the data."""

    dataset: str = "mnist"
    """A name (mnist, mnist-5k, fashion-mnist), a libsvm file, a folder that holds a *train* and a *test* file, or a URI."""
    test_file: str = ""
    """The libsvm file with the test rows, where `dataset` is a single file. Empty: test rows are drawn from it."""
    image_shape: tuple[int, ...] = (28, 28, 1)
    """Height, width, channels; their product is the number of libsvm features."""
    value_range: tuple[float, ...] = (0.0, 255.0)
    """Smallest and largest feature value allowed; the networks scale it to 0..1."""
    classes: int = 10
    labels: tuple[int, ...] = ()
    """The label values as the files write them. Empty: 0 to classes - 1."""
    class_names: tuple[str, ...] = ()
    """Names for people, in the order of `labels`. Empty: the label values."""
    zero_based: bool = False
    """The files count features from 0 instead of libsvm's 1."""
    wait_seconds: float = 3.0
    """How long to wait for a path that is not there yet: a mounted store can show a new file late. 0 does not wait."""

    def __post_init__(self) -> None:
        _rule(
            len(self.image_shape) == 3 and min(self.image_shape) >= 1,
            "data.image_shape",
            self.image_shape,
            "three positive numbers: height, width, channels, for example [28, 28, 1]",
        )
        _rule(
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1],
            "data.value_range",
            self.value_range,
            "two numbers, the smaller first, for example [0, 255]",
        )
        _rule(
            self.value_range[0] <= 0 <= self.value_range[1],
            "data.value_range",
            self.value_range,
            "a range that includes 0, because libsvm leaves zeros out",
        )
        _rule(
            max(map(abs, self.value_range)) <= _LARGEST_FLOAT32,
            "data.value_range",
            self.value_range,
            "a range within -3.4e38 to 3.4e38, because values are kept as float32",
        )
        _rule(self.classes >= 2, "data.classes", self.classes, "at least 2")
        _rule(
            not self.labels or (len(self.labels) == self.classes and len(set(self.labels)) == self.classes),
            "data.labels",
            self.labels,
            f"{self.classes} different numbers (data.classes), or nothing for 0 to {self.classes - 1}",
        )
        _rule(
            all(abs(label) <= _LARGEST_LABEL for label in self.labels),
            "data.labels",
            self.labels,
            "numbers between -2^53 and 2^53, which a label read as a decimal number can be told apart by",
        )
        _rule(0 <= self.wait_seconds <= 600, "data.wait_seconds", self.wait_seconds, "a number of seconds from 0 to 600")
        _rule(
            not self.class_names or len(self.class_names) == self.classes,
            "data.class_names",
            self.class_names,
            f"{self.classes} names (data.classes), or nothing",
        )

    @property
    def label_values(self) -> tuple[int, ...]:
        return self.labels or tuple(range(self.classes))

    @property
    def names(self) -> tuple[str, ...]:
        return self.class_names or tuple(str(label) for label in self.label_values)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How the table is written."""

    tables_uri: str = "tables"
    """The folder that holds the tables."""
    validation_fraction: float = 0.1
    """Share of the training rows that is set aside for validation; 0 for none."""
    test_fraction: float = 0.1
    """Share of the rows that becomes the test split, where the source has no test file."""
    seed: int = 1
    """Decides the order of the rows and which of them are drawn for validation."""
    rows_per_row_group: int = 0
    """Rows in one row group, which is one file; 0 chooses by table size."""
    on_bad_rows: OnBadRows = "fail"
    """What a malformed line does: end the job, or be set aside in a table of its own (`_rejected` in the table's folder)."""
    max_bad_fraction: float = 0.01
    """With `quarantine`: the largest share of a file's lines that may be malformed."""

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            _rule(0 <= value <= 0.5, f"ingest.{name}", value, "a number from 0 to 0.5")
        _rule(self.test_fraction > 0, "ingest.test_fraction", self.test_fraction, "more than 0: a run reports a test accuracy")
        _rule(0 <= self.max_bad_fraction < 1, "ingest.max_bad_fraction", self.max_bad_fraction, "a number from 0 to below 1")
        _rule(self.rows_per_row_group >= 0, "ingest.rows_per_row_group", self.rows_per_row_group, "0 (automatic) or more")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a worker reads its shard."""

    memory_limit_mb: int = 2048
    """A shard up to this size (MB, as stored values) is decoded once and trained from memory; a larger one is streamed."""
    shuffle_buffer_rows: int = 20_000
    """Rows that a streaming worker mixes before it cuts batches."""

    def __post_init__(self) -> None:
        _rule(self.memory_limit_mb >= 0, "stream.memory_limit_mb", self.memory_limit_mb, "0 (always stream) or more")
        _rule(self.shuffle_buffer_rows >= 1, "stream.shuffle_buffer_rows", self.shuffle_buffer_rows, "at least 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network is trained."""

    name: str = "convnet_dropout"
    """A name from `pipelines.models.registry`."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The recipe."""

    epochs: int = 10
    batch_size_per_worker: int = 128
    optimizer: Optimizer = "adam"
    base_learning_rate: float = 0.001
    """Before it is scaled by the number of workers."""
    learning_rate_scaling: LearningRateScaling = "linear"
    """How the rate grows with the number of workers, because the global batch does: as fast (Goyal et al. 2017,
    arXiv:1706.02677), as its square root (for Adam: Malladi et al. 2022, arXiv:2205.10287), or not at all."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate climbs from its base value to the scaled one; nothing to climb with one worker."""
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
    test_views: int = 1
    """The logged model answers with its mean over so many views of an image, of which it makes all but one by shifts of one
    pixel: 1, 5 (and four sides) or 9 (and corners). Test metrics are this model's."""
    precision: Precision = "auto"
    """auto: bfloat16 where the processor computes in it, else float32. Weights and the logged model stay float32."""
    steps_per_execution: int = 1
    """Steps that one call into TensorFlow runs. More of them cost a longer first trace."""
    early_stopping_patience: int = 0
    """Stop after this many epochs without a better validation loss and keep the best weights; 0 trains all epochs."""
    seed: int = 1
    """Decides initial weights, dropout and the order of the rows."""

    def __post_init__(self) -> None:
        _rule(self.epochs >= 1, "training.epochs", self.epochs, "at least 1")
        _rule(self.batch_size_per_worker >= 1, "training.batch_size_per_worker", self.batch_size_per_worker, "at least 1")
        _rule(self.base_learning_rate > 0, "training.base_learning_rate", self.base_learning_rate, "more than 0")
        _rule(self.warmup_epochs >= 0, "training.warmup_epochs", self.warmup_epochs, "0 or more")
        _rule(self.step_epochs > 0, "training.step_epochs", self.step_epochs, "more than 0")
        _rule(0 < self.step_factor <= 1, "training.step_factor", self.step_factor, "more than 0, at most 1")
        _rule(0 <= self.momentum < 1, "training.momentum", self.momentum, "from 0 to below 1")
        _rule(
            self.momentum == 0 or self.optimizer == "sgd",
            "training.momentum",
            self.momentum,
            f"0 unless training.optimizer is sgd (it is {self.optimizer})",
        )
        _rule(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        _rule(
            self.weight_decay == 0 or self.optimizer != "adam",
            "training.weight_decay",
            self.weight_decay,
            "0 with training.optimizer adam; adamw is Adam with weight decay",
        )
        _rule(self.clip_norm >= 0, "training.clip_norm", self.clip_norm, "more than 0, or 0 for no limit")
        _rule(0 <= self.average_decay < 1, "training.average_decay", self.average_decay, "from 0 (no average) to below 1")
        for name, largest in _LARGEST_CHANGES.items():
            value = getattr(self, name)
            _rule(0 <= value <= largest, f"training.{name}", value, f"from 0 (none) to {largest:g}")
        _rule(self.test_views in TEST_VIEWS, "training.test_views", self.test_views, "1, 5 or 9")
        _rule(0 <= self.label_smoothing < 1, "training.label_smoothing", self.label_smoothing, "from 0 to below 1")
        _rule(self.steps_per_execution >= 1, "training.steps_per_execution", self.steps_per_execution, "at least 1")
        _rule(self.early_stopping_patience >= 0, "training.early_stopping_patience", self.early_stopping_patience, "0 or more")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How the workers are started."""

    workers: int = 1
    """Horovod processes, one Spark barrier task each."""
    threads_per_worker: int = 0
    """TensorFlow threads of one worker; 0 shares the cores of its node equally."""
    runs_uri: str = "runs"
    """The folder that holds logs and metric spools. On a cluster it must be one that all nodes see."""
    log_level: LogLevel = "INFO"
    """The least important log lines that the files of driver and ranks hold."""
    start_timeout_seconds: int = 120
    """How long the workers may take until they have found each other."""
    stall_warning_seconds: int = 60
    """A worker that makes no progress for so long is named on the driver's terminal."""
    stall_shutdown_seconds: int = 300
    """A worker that makes no progress for so long is ended, and counts as lost."""
    max_restarts: int = 2
    """How often a training that lost a worker is started again from its last checkpoint. Errors of the code never are."""

    def __post_init__(self) -> None:
        _rule(self.workers >= 1, "launch.workers", self.workers, "at least 1")
        _rule(self.threads_per_worker >= 0, "launch.threads_per_worker", self.threads_per_worker, "0 (automatic) or more")
        _rule(self.start_timeout_seconds >= 1, "launch.start_timeout_seconds", self.start_timeout_seconds, "at least 1")
        _rule(self.stall_warning_seconds >= 1, "launch.stall_warning_seconds", self.stall_warning_seconds, "at least 1")
        _rule(self.max_restarts >= 0, "launch.max_restarts", self.max_restarts, "0 (never) or more")
        _rule(
            self.stall_shutdown_seconds > self.stall_warning_seconds,
            "launch.stall_shutdown_seconds",
            self.stall_shutdown_seconds,
            f"more than launch.stall_warning_seconds ({self.stall_warning_seconds})",
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept for the case that something fails."""

    every_epochs: int = 1
    """Epochs from one checkpoint to the next; 0 writes none."""
    keep: int = 3
    """How many checkpoints of a run stay; older ones are removed."""

    def __post_init__(self) -> None:
        _rule(self.every_epochs >= 0, "checkpoint.every_epochs", self.every_epochs, "0 (none) or more")
        _rule(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1; checkpoint.every_epochs=0 writes none")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the run is recorded."""

    uri: str = ""
    """The MLflow tracking server. Empty: MLFLOW_TRACKING_URI, or else an sqlite file in the home folder."""
    experiment: str = "convoy"
    """Name of the MLflow experiment; on Databricks an absolute workspace path."""
    run_name: str = ""
    """Empty: made from network, dataset and workers."""
    finish_timeout_seconds: int = 30
    """How long a finished job waits for a slow tracking server. What is left then can be replayed."""

    def __post_init__(self) -> None:
        _rule(bool(self.experiment), "tracking.experiment", self.experiment, "a name that is not empty")
        _rule(MASK not in self.uri, "tracking.uri", self.uri, "whole: its credentials were left out here; put them in again")
        _rule(self.finish_timeout_seconds >= 0, "tracking.finish_timeout_seconds", self.finish_timeout_seconds, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole."""

    data: DataConfig = field(default_factory=DataConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        _rule(
            self.training.early_stopping_patience == 0 or self.ingest.validation_fraction > 0,
            "training.early_stopping_patience",
            self.training.early_stopping_patience,
            "0 when ingest.validation_fraction is 0: stopping is decided on validation rows",
        )

    def flat(self) -> dict[str, Any]:
        """`{"training.epochs": 10, ...}`, every setting."""
        return {
            f"{section.name}.{setting.name}": getattr(getattr(self, section.name), setting.name)
            for section in dataclasses.fields(self)
            for setting in dataclasses.fields(getattr(self, section.name))
        }


def _rule(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{key}={shown}: must be {rule}")
