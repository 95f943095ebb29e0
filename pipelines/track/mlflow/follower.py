"""Brings MLflow to what a journal says, however often it takes, and nothing twice.

An action whose answer was lost may have been done all the same. So the run is looked up by its key before it is created, points
of a metric that the server has are not sent again, and a model is logged once; all other actions are harmless to repeat.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import TrackingConfig
from pipelines.errors import ConvoyError
from pipelines.system import paths
from pipelines.system.secrets import first_line, mask_value
from pipelines.track.mlflow import server_compat
from pipelines.track.mlflow.batching import BATCHED, points, requests, single_values
from pipelines.track.mlflow.journal import EXPERIMENT_ID, RUN_ID, Entry, Journal
from pipelines.track.rundir import layout, logs

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "convoy.journal"
PARENT_TAG = "mlflow.parentRunId"
# MLflow's own defaults try a dead server for minutes. We try again ourselves, with other work between.
_HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_log = logging.getLogger(__name__)


def default_tracking_uri(tracking: TrackingConfig) -> str:
    """Where runs go: the setting, else MLFLOW_TRACKING_URI, else the workspace, or off Databricks a file in the home folder."""
    fallback = "databricks" if paths.on_databricks() else f"sqlite:///{paths.home().absolute() / 'mlflow.db'}"
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or fallback


class MlflowSync:
    """Hands the entries of one journal to one tracking server. Not thread-safe; used by one thread."""

    def __init__(self, journal: Journal, tracking_uri: str) -> None:
        self.journal = journal
        self.tracking_uri = tracking_uri
        self.trouble = ""
        """Why the last call of `catch_up` left something undone."""
        self.refusals: list[str] = []
        """One line for each value that the server does not accept."""
        self._client: MlflowClient | None = None
        self._answered = False
        self._first_asked: float | None = None
        self._experiment_id = ""
        # What an earlier process, or a failed call, may have done already.
        self._doubtful = {entry.n for entry in journal.pending()}

    def catch_up(self) -> bool:
        """Do what is pending, as far as the server lets us. True when nothing is left."""
        self.trouble = ""
        pending = self.journal.pending()
        if not pending:
            return True
        try:
            with logs.kept():
                self._open(pending)
        except Exception as error:
            self._client = None
            self._trouble("the run could not be opened", error)
            return False
        for group in requests(pending):
            if not self._try(group):
                break
        return not self.journal.pending()

    @property
    def silent_seconds(self) -> float:
        """How long a server has been asked that has not answered once; 0 for one that has, and for a local database."""
        if self._answered or self._first_asked is None or not self.tracking_uri.startswith(("http", "databricks")):
            return 0.0
        return time.monotonic() - self._first_asked

    def forget_doubts(self) -> None:
        """For a journal that has just begun: none of it can have been done before."""
        self._doubtful.clear()

    def _try(self, group: list[Entry]) -> bool:
        """False when the server does not answer, so that others need not be tried now."""
        numbers = [entry.n for entry in group]
        try:
            model_uri = self._apply(group)
        except Exception as error:
            self._doubtful |= set(numbers)
            if server_compat.is_refusal(error) and len(group) > 1:
                return all(self._try([entry]) for entry in group)
            name = _name(group[0])
            if server_compat.is_refusal(error):
                self._answered = True
                why = self._apply_each_value(group[0], error)
                if not why:
                    self.journal.accept(numbers)
                    return True
                _log.warning("%s was refused: %s", name, why)
                self.refusals.append(f"a value of {name} was refused ({why})")
                self.journal.refuse(group[0].n, why)
                return True
            self._trouble(f"{name} could not be logged", error)
            return not server_compat.is_silence(error)
        self._answered = True
        self.journal.accept(numbers, model_uri)
        return True

    def _open(self, pending: Sequence[Entry]) -> None:
        """Connect, and find or create the run."""
        if self._client is not None:
            return
        for name, value in _HTTP.items():
            os.environ.setdefault(name, value)
        server_compat.check_sqlite(self.tracking_uri)
        import mlflow

        logs.silence_mlflow()
        self._first_asked = self._first_asked or time.monotonic()
        client = mlflow.MlflowClient(self.tracking_uri)
        entry = next(entry for entry in self.journal.entries() if entry.action == "open")
        accepted = self.journal.accepted
        run_id = accepted.run_id if accepted.tracking_uri == mask_value(self.tracking_uri) else ""
        if not run_id and entry.values["tracking_uri"] == mask_value(self.tracking_uri):
            run_id = entry.values.get("run_id", "")
        if run_id:
            self._experiment_id = client.get_run(run_id).info.experiment_id
        else:
            self._experiment_id = server_compat.experiment_id(client, entry.values["experiment"], self.tracking_uri)
            self._answered = True
            run_id = self._find_or_create(client, entry)
        self._answered = True
        self.journal.opened(self.tracking_uri, run_id)
        self.journal.accept([entry.n])
        self._client = client

    def _find_or_create(self, client: "MlflowClient", entry: Entry) -> str:
        key, tags = entry.values["key"], self._parent_tags(entry)
        if entry.n in self._doubtful:
            found = client.search_runs([self._experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        self._doubtful.add(entry.n)
        name = entry.values["name"]
        created = client.create_run(self._experiment_id, start_time=entry.time, tags={KEY_TAG: key} | tags, run_name=name)
        return str(created.info.run_id)

    def _parent_tags(self, entry: Entry) -> dict[str, str]:
        """What has MLflow show the run below its parent. Raises ConvoyError while the server does not have that."""
        if "parent" not in entry.values:
            return {}
        run_dir = self.journal.run_dir.absolute()
        parent = Path(os.path.normpath(run_dir / entry.values["parent"]))
        if parent not in run_dir.parents:
            raise ConvoyError(f"{run_dir}: its record names {parent} as its parent, but does not lie below it")
        record = layout.read_record(parent)
        if record is None or record.tracking_uri != mask_value(self.tracking_uri):
            raise ConvoyError(f"the run of {paths.display(parent)} must be there first")
        return {PARENT_TAG: record.run_id}

    def _apply(self, group: list[Entry]) -> str:
        """Gives the model's URI when the group is a model."""
        assert self._client is not None
        client, run_id, entry = self._client, self.journal.accepted.run_id, group[0]
        values = entry.values
        if entry.action in BATCHED:
            self._log_batch(client, run_id, group)
        elif entry.action == "inputs":
            server_compat.log_inputs(client, run_id, values["datasets"])
        elif entry.action == "artifact":
            client.log_artifact(run_id, str(layout.inside(self.journal.run_dir, values["path"])), values["folder"] or None)
        elif entry.action == "model":
            return self._log_model(client, run_id, entry)
        elif entry.action == "status" and values["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        elif entry.action == "status":
            client.set_terminated(run_id, values["status"], entry.time)
        return ""

    def _log_batch(self, client: "MlflowClient", run_id: str, group: list[Entry]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(key, value) for entry in group if entry.action == "params" for key, value in entry.values.items()]
        tags = [
            RunTag(key, value.replace(RUN_ID, run_id).replace(EXPERIMENT_ID, self._experiment_id))
            for entry in group
            if entry.action == "tags"
            for key, value in entry.values.items()
        ]
        measured = [(entry, key, value) for entry in group if entry.action == "metrics" for key, value in points(entry)]
        known: dict[str, set[tuple[int, int]]] = {}
        for entry, key, _ in measured:
            if entry.n in self._doubtful and key not in known:
                history = client.get_metric_history(run_id, key)
                known[key] = {(point.step, point.timestamp) for point in history}
        metrics = [
            Metric(key, value, entry.time, entry.values["step"])
            for entry, key, value in measured
            if (entry.values["step"], entry.time) not in known.get(key, ())
        ]
        if params or tags or metrics:
            client.log_batch(run_id, metrics=metrics, params=params, tags=tags)

    def _apply_each_value(self, entry: Entry, error: Exception) -> str:
        """Save from a refused entry what the server does accept. Gives the reason for the rest."""
        parts = single_values(entry)
        if len(parts) < 2:
            return first_line(error)
        refused = []
        for key, part in parts:
            try:
                self._apply([part])
            except Exception as alone:
                refused.append(f"{key}: {first_line(alone)}")
        return "; ".join(refused)

    def _log_model(self, client: "MlflowClient", run_id: str, entry: Entry) -> str:
        from pipelines.track.mlflow.logged_model import adopt, logged_uri

        if entry.n in self._doubtful:
            uri = logged_uri(client, run_id, self._experiment_id)
            if uri:
                return uri
        self._doubtful.add(entry.n)
        folder = layout.inside(self.journal.run_dir, entry.values["path"])
        return adopt(folder, run_id, self._experiment_id, self.tracking_uri)

    def _trouble(self, what: str, error: Exception) -> None:
        _log.warning("%s", what, exc_info=error)
        self.trouble = self.trouble or f"{what}: {first_line(error)}"


def _name(entry: Entry) -> str:
    return str(entry.values["path"]) if entry.action == "artifact" else entry.action
