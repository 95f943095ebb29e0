"""Every setting of a run: its name, type, default, unit and rule.

Defaults live here (those of `training` in `pipelines.config.training`) and nowhere else. A YAML file states what differs from
them, `--set section.key=value` what differs from the file (`pipelines.config.loader`). A setting that breaks a rule is a
`ConfigError` that names key, value, rule and remedy.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.config.rules import rule
from pipelines.config.training import TrainingConfig
from pipelines.system.secrets import MASK

Verbosity = Literal["quiet", "normal", "verbose"]

OnBadRows = Literal["fail", "quarantine"]

_LARGEST_FLOAT32 = 3.4028234e38
_LARGEST_LABEL = 2**53
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the source holds. Nothing here is guessed from the data."""

    dataset: str = "mnist"
    """A name (mnist, mnist-5k, fashion-mnist), a libsvm file, a folder that holds a *train* and a *test* file, a folder of
    pictures (`pipelines.data.sources.image_folder`), or the URI of one of those."""
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
    resize_pictures: bool = False
    """Bring all pictures of a folder to `image_shape`. Otherwise one of another size is a bad row."""
    wait_seconds: float = 3.0
    """How long to wait for a path that is not there yet: a mounted store can show a new file late. 0 does not wait."""

    def __post_init__(self) -> None:
        rule(
            len(self.image_shape) == 3 and min(self.image_shape) >= 1,
            "data.image_shape",
            self.image_shape,
            "three positive numbers: height, width, channels, for example [28, 28, 1]",
        )
        rule(
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1],
            "data.value_range",
            self.value_range,
            "two numbers, the smaller first, for example [0, 255]",
        )
        rule(
            self.value_range[0] <= 0 <= self.value_range[1],
            "data.value_range",
            self.value_range,
            "a range that includes 0, because libsvm leaves zeros out",
        )
        rule(
            max(map(abs, self.value_range)) <= _LARGEST_FLOAT32,
            "data.value_range",
            self.value_range,
            "a range within -3.4e38 to 3.4e38, because values are kept as float32",
        )
        rule(self.classes >= 2, "data.classes", self.classes, "at least 2")
        rule(
            not self.labels or (len(self.labels) == self.classes and len(set(self.labels)) == self.classes),
            "data.labels",
            self.labels,
            f"{self.classes} different numbers (data.classes), or nothing for 0 to {self.classes - 1}",
        )
        rule(
            all(abs(label) <= _LARGEST_LABEL for label in self.labels),
            "data.labels",
            self.labels,
            "numbers between -2^53 and 2^53, which a label read as a decimal number can be told apart by",
        )
        rule(0 <= self.wait_seconds <= 600, "data.wait_seconds", self.wait_seconds, "a number of seconds from 0 to 600")
        rule(
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
    """The folder that holds the tables, to which all nodes write."""
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
            rule(0 <= value <= 0.5, f"ingest.{name}", value, "a number from 0 to 0.5")
        rule(self.test_fraction > 0, "ingest.test_fraction", self.test_fraction, "more than 0: a run reports a test accuracy")
        rule(0 <= self.max_bad_fraction < 1, "ingest.max_bad_fraction", self.max_bad_fraction, "a number from 0 to below 1")
        rule(self.rows_per_row_group >= 0, "ingest.rows_per_row_group", self.rows_per_row_group, "0 (automatic) or more")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a worker reads its shard."""

    memory_limit_mb: int = 2048
    """A shard up to this size (MB, as stored values) is decoded once and trained from memory; a larger one is streamed."""
    shuffle_buffer_rows: int = 20_000
    """Rows that a streaming worker mixes before it cuts batches."""

    def __post_init__(self) -> None:
        rule(self.memory_limit_mb >= 0, "stream.memory_limit_mb", self.memory_limit_mb, "0 (always stream) or more")
        rule(self.shuffle_buffer_rows >= 1, "stream.shuffle_buffer_rows", self.shuffle_buffer_rows, "at least 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network is trained."""

    name: str = "convnet_dropout"
    """A name from `pipelines.models.registry`."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How the workers are started."""

    workers: int = 1
    """Horovod processes, one Spark barrier task each."""
    threads_per_worker: int = 0
    """TensorFlow threads of one worker; 0 shares the cores of its node equally."""
    shared_memory: bool = True
    """Ranks that are all on one machine, without GPUs and compression, average gradients through its memory, not by Horovod."""
    cycle_milliseconds: float = 0.0
    """How often ranks ask each other what Horovod has to do; 0: 10 where gradients go through shared memory, else Horovod's own
    (1, or HOROVOD_CYCLE_TIME). Asking takes time from a worker's own core (benchmarks/README.md)."""
    runs_uri: str = "runs"
    """The folder that holds logs and metric spools. On a cluster it must be one that all nodes see, such as on a volume."""
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
    min_workers: int = 0
    """A training whose lost worker finds no task slot any more goes on with fewer, so many at least; 0: it ends."""

    def __post_init__(self) -> None:
        rule(self.workers >= 1, "launch.workers", self.workers, "at least 1")
        rule(self.threads_per_worker >= 0, "launch.threads_per_worker", self.threads_per_worker, "0 (automatic) or more")
        rule(
            self.cycle_milliseconds == 0 or 0.1 <= self.cycle_milliseconds <= 1000,
            "launch.cycle_milliseconds",
            self.cycle_milliseconds,
            "0 (Horovod's own) or 0.1 to 1000",
        )
        rule(self.start_timeout_seconds >= 1, "launch.start_timeout_seconds", self.start_timeout_seconds, "at least 1")
        rule(self.stall_warning_seconds >= 1, "launch.stall_warning_seconds", self.stall_warning_seconds, "at least 1")
        rule(self.max_restarts >= 0, "launch.max_restarts", self.max_restarts, "0 (never) or more")
        rule(
            0 <= self.min_workers <= self.workers,
            "launch.min_workers",
            self.min_workers,
            f"0 (all workers or none) to launch.workers ({self.workers})",
        )
        rule(
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
        rule(self.every_epochs >= 0, "checkpoint.every_epochs", self.every_epochs, "0 (none) or more")
        rule(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1; checkpoint.every_epochs=0 writes none")


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
        rule(bool(self.experiment), "tracking.experiment", self.experiment, "a name that is not empty")
        rule(MASK not in self.uri, "tracking.uri", self.uri, "whole: its credentials were left out here; put them in again")
        rule(self.finish_timeout_seconds >= 0, "tracking.finish_timeout_seconds", self.finish_timeout_seconds, "0 or more")


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
        rule(
            self.training.early_stopping_patience == 0 or self.ingest.validation_fraction > 0,
            "training.early_stopping_patience",
            self.training.early_stopping_patience,
            "0 when ingest.validation_fraction is 0: stopping is decided on validation rows",
        )
        rule(
            self.training.compression == "none" or self.launch.workers > 1,
            "training.compression",
            self.training.compression,
            "none when launch.workers is 1: one worker sends no gradients",
        )

    def flat(self) -> dict[str, Any]:
        """`{"training.epochs": 10, ...}`, every setting."""
        return {
            f"{section.name}.{setting.name}": getattr(getattr(self, section.name), setting.name)
            for section in dataclasses.fields(self)
            for setting in dataclasses.fields(getattr(self, section.name))
        }
