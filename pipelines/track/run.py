"""The MLflow run of a job, owned by the driver.

All calls are queued and done by one background thread, so importing MLflow, setting up its store and a slow server cost training
nothing. Trouble with tracking is a warning: the run's folder holds the same numbers.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines import paths, rundir
from pipelines.config import TrackingConfig
from pipelines.schema import MANIFEST_NAME, Split, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
_CONTEXTS: dict[Split, str] = {"train": "training", "validation": "validation", "test": "testing"}
_log = logging.getLogger(__name__)


def default_tracking_uri(tracking: TrackingConfig) -> str:
    """Where runs go: the setting, else MLFLOW_TRACKING_URI, else an sqlite file in the home folder."""
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.home().absolute() / 'mlflow.db'}"


@dataclass
class _Step:
    name: str
    action: Callable[["MlflowClient", str], None]


class TrackedRun:
    """One run. Every method returns at once; `finish` waits for the queue."""

    def __init__(self, tracking: TrackingConfig, run_name: str, run_dir: Path, run_id: str = "") -> None:
        """Open a run, or go on with the run `run_id`. Its id is kept in `run_dir`."""
        self.tracking_uri = default_tracking_uri(tracking)
        self.run_id = run_id
        self.model_uri = ""
        self.warnings: list[str] = []
        self._experiment = tracking.experiment
        self._run_name = run_name
        self._run_dir = run_dir
        self._steps: queue.SimpleQueue[_Step | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def settings(self, config: Mapping[str, Any], config_yaml: str) -> None:
        """Parameters for searching, and the file that repeats the run."""

        def log(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import Param

            params = [Param(key, str(list(value) if isinstance(value, tuple) else value)) for key, value in config.items()]
            client.log_batch(run_id, params=params)
            client.log_text(run_id, config_yaml, "config.yml")

        self._queue("settings", log)

    def tags(self, tags: Mapping[str, str]) -> None:
        def log(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

        self._queue("tags", log)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        timestamp = int(time.time() * 1000)

        def log(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import Metric

            client.log_batch(run_id, metrics=[Metric(key, value, timestamp, step) for key, value in values.items()])

        self._queue("metrics", log)

    def dataset(self, table: Table) -> None:
        """The table as input of the run, one entry a split, and its manifest as an artifact."""

        def log(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            manifest = table.manifest
            inputs = [
                DatasetInput(
                    Dataset(
                        name=f"{manifest.dataset}-{split}",
                        digest=manifest.digest,
                        source_type="local",
                        source=json.dumps({"uri": f"{table.uri}/split={split}"}),
                        profile=json.dumps({"rows": summary.rows, "rows_per_label": summary.rows_per_label}),
                    ),
                    [InputTag("mlflow.data.context", _CONTEXTS[split])],
                )
                for split, summary in manifest.splits.items()
            ]
            client.log_inputs(run_id, inputs)
            client.log_text(run_id, manifest.to_json(), f"table/{MANIFEST_NAME.lstrip('_')}")

        self._queue("dataset", log)

    def figure(self, draw: Callable[[], "Figure"], artifact: str) -> None:
        """Drawn on the background thread."""
        self._queue(artifact, lambda client, run_id: client.log_figure(run_id, draw(), artifact))

    def artifact(self, path: Path) -> None:
        self._queue(path.name, lambda client, run_id: client.log_artifact(run_id, str(path)))

    def model(self, folder: Path) -> None:
        """Log a saved model folder; sets `model_uri`."""

        def log(client: "MlflowClient", run_id: str) -> None:
            from pipelines.track.model import adopt

            self.model_uri = adopt(folder, run_id)

        self._queue("model", log)

    def finish(self, status: Status, timeout: float = 120) -> None:
        """Do what is queued, end the run, and wait for that for at most `timeout` seconds."""
        self._queue("status", lambda client, run_id: client.set_terminated(run_id, status))
        self._steps.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.warnings.append(f"tracking server {self.tracking_uri} did not answer within {timeout:.0f} s")

    def _queue(self, name: str, action: Callable[["MlflowClient", str], None]) -> None:
        self._steps.put(_Step(name, action))

    def _work(self) -> None:
        try:
            client = self._open()
        except Exception as error:
            self._warn("the run could not be opened", error)
            return
        while (step := self._steps.get()) is not None:
            try:
                step.action(client, self.run_id)
            except Exception as error:
                self._warn(f"{step.name} could not be logged", error)

    def _open(self) -> "MlflowClient":
        import mlflow

        # The set-up of a new store, and hints for other versions, would go to the console. MLflow sets its level when imported.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.tracking_uri)
        client = mlflow.MlflowClient()
        experiment_id = _experiment_id(client, self._experiment, self.tracking_uri)
        # MLflow 3 files a model under the active experiment, not under that of its run.
        mlflow.set_experiment(experiment_id=experiment_id)
        if self.run_id:
            client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = client.create_run(experiment_id, run_name=self._run_name).info.run_id
        rundir.write_record(self._run_dir, rundir.RunRecord(self.run_id, self.tracking_uri))
        return client

    def _warn(self, what: str, error: Exception) -> None:
        _log.warning("%s", what, exc_info=error)
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        self.warnings.append(f"MLflow at {self.tracking_uri}: {what} ({first_line})")


def _experiment_id(client: "MlflowClient", name: str, tracking_uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # A database store would put artifacts into the working directory.
    location = f"file:{paths.home().absolute() / 'mlartifacts' / name}" if tracking_uri.startswith("sqlite:") else None
    return str(client.create_experiment(name, artifact_location=location))
