"""Every setting of a run: `schema`, `data` and `training` declare them, `loader` reads them from files and flags."""

from pipelines.config.data import DataConfig, IngestConfig, OnBadRows, StreamConfig
from pipelines.config.schema import CheckpointConfig, Config, LaunchConfig, LogLevel, ModelConfig, TrackingConfig
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
