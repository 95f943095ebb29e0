"""The summary of a training: `summary.json` of its run folder, and what `--summary` of the training job writes."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ConvoyError
from pipelines.system import atomic
from pipelines.system.fingerprint import json_sha256
from pipelines.system.secrets import mask, mask_value

# Keys whose values are used: ids, addresses and paths are changed only where they hold credentials.
_ACTED_ON = {
    *("id", "uri", "dir", "table", "digest", "dataset", "input", "output", "config", "settings"),
    *("name", "names", "labels", "version", "before", "alias", "sweep", "metric"),
}


@dataclass(frozen=True)
class SplitRows:
    """Rows of the table."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class ModelScore:
    """Score of the logged model on the test rows."""

    loss: float
    metrics: Mapping[str, float]
    """By name; the task's first metric first."""
    rows: int

    @property
    def accuracy(self) -> float:
        """Of a classification."""
        return self.metrics["accuracy"]

    def as_dict(self) -> dict[str, float]:
        """`{"loss": ..., METRIC: ..., "rows": ...}`."""
        return {"loss": self.loss, **self.metrics, "rows": self.rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelScore":
        metrics = {name: value for name, value in values.items() if name not in ("loss", "rows")}
        return cls(values["loss"], metrics, values["rows"])


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of each stage; `first_step` and `total` count from the submission of the job."""

    ingest: float
    launch: float
    first_step: float
    train: float
    """Epochs with their validation."""
    total: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """Summary of a finished training."""

    dataset: str
    note: str
    """What the user must know about the data set. Often empty."""
    table: str
    """URI."""
    run_dir: str
    rows: SplitRows
    workers: int
    """At the end: lost workers may not have been replaced."""
    epochs: int
    best_epoch: int
    precision: str
    test: ModelScore | None
    """None if the test rows were not used, as in a trial of a sweep."""
    rows_per_second: int
    """All workers together, in the last epoch."""
    tracking_processor_seconds: float = 0.0
    """CPU seconds of tracking on the driver from the first step to the last."""
    seconds: StageSeconds
    run_id: str = ""
    """Empty, like `model_uri`, until the tracking server has taken the run."""
    model_uri: str = ""
    tracking_uri: str = ""
    registered: Mapping[str, str] | None = None
    """Name, version and alias of the registered model, empty if registering failed; None if it was not requested."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        values = dataclasses.asdict(self) | {"test": self.test.as_dict() if self.test is not None else None}
        if self.registered is None:
            del values["registered"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingSummary":
        """The inverse of `as_dict`. Unknown keys, as of other versions, are ignored.

        Raises:
            ValueError: a key is missing.
        """
        try:
            known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
            known["rows"] = SplitRows(**values["rows"])
            known["test"] = ModelScore.from_dict(values["test"]) if values["test"] is not None else None
            known["seconds"] = StageSeconds(**values["seconds"])
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no summary of a training ({error})") from error


def read(path: Path) -> TrainingSummary:
    """Raises OSError or ValueError if the file is missing, damaged, or holds no summary of a training."""
    values = json.loads(path.read_text(encoding="utf-8"))
    # Only in that of a run folder, and not in those of earlier versions.
    recorded = values.pop("sha256", None) if isinstance(values, dict) else None
    if recorded not in (None, json_sha256(values)):
        raise ValueError("some of its bytes have changed")
    return TrainingSummary.from_dict(values)


def write(summary: Mapping[str, Any], path: Path, *, private: bool = False) -> None:
    """Write the result of a job as JSON, whole or not at all, without credentials.

    Args:
        summary: plain data.
        path: a file in an existing folder.
        private: that of a run folder, which only its owner may read, and which has the SHA-256 of all else it says.

    Raises:
        ConvoyError: it cannot be written.
    """
    values = _masked("", summary)
    if private:
        values["sha256"] = json_sha256(values)
    try:
        atomic.write(path, json.dumps(values, indent=2) + "\n", private=private)
    except OSError as error:
        raise ConvoyError(f"{path}: the summary cannot be written ({error.strerror}); the work itself is done") from error


def _masked(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _masked(name, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(key, item) for item in value]
    if not isinstance(value, str):
        return value
    return mask_value(value) if key.rpartition("_")[2] in _ACTED_ON else mask(value)
