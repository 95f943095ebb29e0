"""Every setting of a run: its name, type, default, unit and rule.

Defaults are defined here and in the modules of the larger sections (`data`, `training`), nowhere else. A YAML file overrides
them, and `--set section.key=value` overrides the file (`pipelines.config.loader`). Breaking a rule raises a `ConfigError` that
names key, value, rule and remedy: those of a section when it is created, those between sections by `Config.check`.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.config.data import DataConfig, IngestConfig, StreamConfig
from pipelines.config.rules import DAYS_30, bounds, rule
from pipelines.config.training import TrainingConfig
from pipelines.system.secrets import MASK, remember

Verbosity = Literal["quiet", "normal", "verbose"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_MAX_WORKERS, _MAX_THREADS, _MANY, _MAX_STEP = 2**16, 2**10, 10**6, 2**31 - 1
_MAX_BATCH_BYTES = 10**9

# Keras' names of losses, without underscores.
_NOT_OF_CLASS_INDICES = (
    *("mse", "meansquarederror", "mae", "meanabsoluteerror", "huber", "logcosh", "mape", "meanabsolutepercentageerror"),
    *("msle", "meansquaredlogarithmicerror", "categoricalcrossentropy", "binarycrossentropy"),
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network to train."""

    name: str = "convnet_dropout"
    """A network in `pipelines.models.registry`, or your own function: `package.module:function`, `path/to/file.py:function`."""
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
    """Passed to your own function by name, for example {width: 32}. Networks of the registry take none."""
    weights: str = ""
    """Weights to start from, by the names of the layers: a .keras or .weights.h5 file, `runs:/RUN/model`, or
    `models:/NAME/VERSION` or `models:/NAME@ALIAS`. Empty: random ones."""
    frozen: tuple[str, ...] = ()
    """Layers whose weights stay as they are, as patterns of their names, for example ["conv*"]."""

    def __post_init__(self) -> None:
        rule(all(self.frozen), "model.frozen", self.frozen, "names or patterns of layers, none of them empty")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How the workers are started."""

    workers: int = 1
    """Horovod processes, one Spark barrier task each."""
    threads_per_worker: int = 0
    """TensorFlow threads per worker; 0 divides the cores of a node equally among its workers."""
    shared_memory: bool = True
    """Average gradients of the ranks of a machine through its memory, and use Horovod between machines only. Without effect with
    GPUs, and for compressed gradients on one machine."""
    cycle_milliseconds: float = 0.0
    """Horovod's cycle time: how often ranks negotiate pending operations, which takes time from a worker's core
    (benchmarks/README.md). 0: 10 if gradients go through shared memory, otherwise Horovod's own (1, or HOROVOD_CYCLE_TIME)."""
    runs_uri: str = "runs"
    """The folder for logs and metric spools. On a cluster all nodes must see it, for example on a volume."""
    log_level: LogLevel = "INFO"
    """Lowest level of the lines in the log files of driver and ranks."""
    start_timeout_seconds: int = 120
    """How long the workers of a training may take to find each other."""
    stall_warning_seconds: int = 60
    """A worker that makes no progress for this long is named on the driver's terminal; one whose process does not run, after 20
    at most."""
    stall_shutdown_seconds: int = 300
    """A worker that makes no progress for this long is terminated and counts as lost. Each step and each batch of an evaluation
    is progress."""
    max_restarts: int = 2
    """How often a training that lost a worker restarts from its last checkpoint. Errors in the code never cause a restart."""
    min_workers: int = 0
    """Fewest workers to continue with when there is no task slot for a lost worker; 0: the training fails."""

    def __post_init__(self) -> None:
        bounds("launch.workers", self.workers, 1, _MAX_WORKERS)
        bounds("launch.threads_per_worker", self.threads_per_worker, 0, _MAX_THREADS, "0 (automatic) or more")
        key = "launch.cycle_milliseconds"
        bounds(key, self.cycle_milliseconds, 0.1, 1000, "0 (Horovod's own) or 0.1 to 1000", or_zero=True)
        bounds("launch.start_timeout_seconds", self.start_timeout_seconds, 1, DAYS_30)
        bounds("launch.stall_warning_seconds", self.stall_warning_seconds, 1, DAYS_30)
        bounds("launch.stall_shutdown_seconds", self.stall_shutdown_seconds, 1, DAYS_30)
        bounds("launch.max_restarts", self.max_restarts, 0, _MANY, "0 (never) or more")
        bounds("launch.min_workers", self.min_workers, 0, _MAX_WORKERS, "0 (all workers or none) or more")
        rule(
            self.min_workers <= self.workers,
            "launch.min_workers",
            self.min_workers,
            f"at most launch.workers ({self.workers})",
        )
        rule(
            self.stall_shutdown_seconds > self.stall_warning_seconds,
            "launch.stall_shutdown_seconds",
            self.stall_shutdown_seconds,
            f"more than launch.stall_warning_seconds ({self.stall_warning_seconds})",
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is saved to recover from failures."""

    every_epochs: int = 1
    """Epochs between checkpoints; 0 writes none at the end of an epoch."""
    every_steps: int = 0
    """Steps between checkpoints inside an epoch; 0 writes none there. For epochs that are too long to lose."""
    keep: int = 3
    """Checkpoints kept per run; older ones are removed."""

    def __post_init__(self) -> None:
        bounds("checkpoint.every_epochs", self.every_epochs, 0, _MANY, "0 (none) or more")
        bounds("checkpoint.every_steps", self.every_steps, 0, _MANY, "0 (none) or more")
        bounds("checkpoint.keep", self.keep, 1, _MANY, "at least 1; checkpoint.every_epochs=0 writes none")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the run is recorded."""

    uri: str = ""
    """The MLflow tracking server. Empty: MLFLOW_TRACKING_URI, otherwise an SQLite file in the home folder."""
    experiment: str = "convoy"
    """Name of the MLflow experiment; on Databricks, an absolute workspace path."""
    run_name: str = ""
    """Empty: built from network, dataset and workers."""
    finish_timeout_seconds: int = 30
    """How long a finished job waits for a slow tracking server. What is left after that can be replayed."""
    tensorboard: bool = False
    """Write the metrics of each epoch as TensorBoard logs, too, to `tensorboard` in the run folder and the run's artifacts."""
    profile: tuple[int, ...] = ()
    """First and last step, counted from 1, of a trace of TensorFlow's profiler on rank 0, in the same place. Empty: none."""

    def __post_init__(self) -> None:
        remember(self.uri)
        rule(bool(self.experiment), "tracking.experiment", self.experiment, "a non-empty name")
        rule(
            MASK not in self.uri,
            "tracking.uri",
            self.uri,
            "complete: its credentials were masked; set MLFLOW_TRACKING_URI to the whole address, or --set tracking.uri",
        )
        bounds("tracking.finish_timeout_seconds", self.finish_timeout_seconds, 0, DAYS_30)
        rule(
            not self.profile or (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]),
            "tracking.profile",
            self.profile,
            "first and last step, for example [10, 20], or empty",
        )
        rule(max(self.profile, default=1) <= _MAX_STEP, "tracking.profile", self.profile, f"steps up to {_MAX_STEP:,}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one run."""

    data: DataConfig = field(default_factory=DataConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def check(self) -> None:
        """Check the rules between sections. They are for settings as a user gives them: a running job derives others, such as a
        training that continues on fewer workers.

        Raises:
            ConfigError: names key, value, rule and remedy.
        """
        for key, value in self.flat().items():
            complete = MASK not in str(value) or key == "tracking.run_name"
            rule(complete, key, value, f"complete: credentials in it were masked; give it again with --set {key}")
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
        self._check_shards()
        self._check_task()
        self._check_features()

    @property
    def shards(self) -> int:
        """Shards that the training rows are cut into, each of which a worker, or one of its parts, trains on."""
        return self.training.canonical_shards or self.launch.workers

    def _check_shards(self) -> None:
        """Raises ConfigError for numbers of workers that cannot divide the canonical shards among them."""
        shards, launch = self.training.canonical_shards, self.launch
        why = f"a divisor of training.canonical_shards ({shards}), so that all workers have equally many"
        for key, workers in (("launch.workers", launch.workers), ("launch.min_workers", launch.min_workers)):
            rule(not shards or not workers or shards % workers == 0, key, workers, why)

    def _check_features(self) -> None:
        """Raises ConfigError for a setting that changes pictures, if rows are none, and for batches that are too large."""
        features, training = self.data.features, self.training
        if not features:
            return
        why = "with data.features: it is for pictures"
        for key, value in self.flat().items():
            if key.startswith("training.augment_"):
                rule(not value, key, value, f"{'false' if isinstance(value, bool) else '0'} {why}")
        rule(training.test_views == 1, "training.test_views", training.test_views, f"1 {why}")
        rule(not self.data.resize_pictures, "data.resize_pictures", self.data.resize_pictures, f"false {why}")
        most = _MAX_BATCH_BYTES // (4 * features)
        rule(
            training.batch_size_per_worker <= most,
            "training.batch_size_per_worker",
            training.batch_size_per_worker,
            f"at most {most:,} with data.features={features}: a row takes {4 * features / 1e6:g} MB, and a batch at most 1 GB",
        )

    def _check_task(self) -> None:
        """Raises ConfigError for a setting of the training that the task does not know."""
        training, weights = self.training, self.training.class_weights
        loss, is_regression = training.loss.lower().replace("_", ""), self.data.task == "regression"
        why = "a loss of numbers with data.task regression, such as mean_squared_error, mean_absolute_error or huber"
        rule(not is_regression or "crossentropy" not in loss or ":" in loss, "training.loss", training.loss, why)
        why = "a loss of class indices with data.task classification: sparse_categorical_crossentropy, or one of your own"
        rule(is_regression or loss not in _NOT_OF_CLASS_INDICES, "training.loss", training.loss, why)
        rule(
            isinstance(weights, str) or self.data.task == "regression" or len(weights) == self.data.classes,
            "training.class_weights",
            weights,
            f"{self.data.classes} numbers, one for each class (data.classes)",
        )
        if self.data.task == "classification":
            return
        smoothing = training.label_smoothing
        why = "only the targets of classes can be softened"
        rule(not smoothing, "training.label_smoothing", smoothing, f"0 with data.task regression: {why}")
        for key, value in self.flat().items():
            if key.startswith("training.augment_"):
                off = "false" if isinstance(value, bool) else "0"
                why = "what changes a picture can change the number that belongs to it"
                rule(not value, key, value, f"{off} with data.task regression: {why}")
        rule(weights == "none", "training.class_weights", weights, "none with data.task regression: there are no classes")

    def flat(self) -> dict[str, Any]:
        """All settings by full name: `{"training.epochs": 10, ...}`."""
        return {
            f"{section.name}.{setting.name}": getattr(getattr(self, section.name), setting.name)
            for section in dataclasses.fields(self)
            for setting in dataclasses.fields(getattr(self, section.name))
        }
