"""Every setting of a run: its name, type, default, unit and rule.

Defaults are defined here and in the modules of the larger sections (`data`, `training`), nowhere else. A YAML file overrides
them, and `--set section.key=value` overrides the file (`pipelines.config.loader`). Breaking a rule raises a `ConfigError` that
names key, value, rule and remedy.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.config.data import DataConfig, IngestConfig, StreamConfig
from pipelines.config.rules import rule
from pipelines.config.training import TrainingConfig
from pipelines.system.secrets import MASK

Verbosity = Literal["quiet", "normal", "verbose"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


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
