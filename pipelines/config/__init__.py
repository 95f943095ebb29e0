"""Every setting of a run: `schema` and `training` declare them, `loader` reads them from files and flags."""

from pipelines.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    IngestConfig,
    LaunchConfig,
    LogLevel,
    ModelConfig,
    OnBadRows,
    StreamConfig,
    TrackingConfig,
)
from pipelines.config.training import TrainingConfig

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "IngestConfig",
    "LaunchConfig",
    "LogLevel",
    "ModelConfig",
    "OnBadRows",
    "StreamConfig",
    "TrackingConfig",
    "TrainingConfig",
]
