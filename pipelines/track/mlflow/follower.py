"""Synchronizes MLflow with a journal: retries until the server has everything, and logs nothing twice.

An action may have been performed even if its response was lost. So the run is looked up by its key before it is created, metric
points that the server has are not sent again, and a model is logged once; all other actions are idempotent.
"""

import logging
import os
import time
from typing import TYPE_CHECKING

from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError, ConvoyError
from pipelines.system import path_rules, paths
from pipelines.system.secrets import first_line, mask_value
from pipelines.track.mlflow import comparison, parent, server_compat
from pipelines.track.mlflow.batching import BATCHED, points, requests, single_values
from pipelines.track.mlflow.journal import EXPERIMENT_ID, RUN_ID, Journal
from pipelines.track.mlflow.journal_file import Entry
from pipelines.track.rundir import layout, logs

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "convoy.journal"
_log = logging.getLogger(__name__)


def default_tracking_uri(tracking: TrackingConfig) -> str:
    """The setting, else MLFLOW_TRACKING_URI, else the workspace, or off Databricks a SQLite file in the home folder.

    Raises:
        ConfigError: the path of an SQLite file has a character that SQLAlchemy reads otherwise.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or ("databricks" if paths.on_databricks() else "")
    if uri:
        return checked_uri(uri)
    file = str(paths.home().absolute() / "mlflow.db")
    return _with_database(f"sqlite:///{file}", file)


def checked_uri(uri: str) -> str:
    """The URI of a tracking server. Raises ConfigError if it is that of an SQLite file, and SQLAlchemy would open another one."""
    scheme, _, rest = uri.partition(":///")
    # What follows a question mark are parameters.
    return _with_database(uri, rest.partition("?")[0]) if scheme == "sqlite" else uri


def _with_database(uri: str, file: str) -> str:
    fault = path_rules.database_fault(file)
    if fault:
        raise ConfigError(f"tracking.uri={path_rules.printable(mask_value(uri))}: the path of the database {fault}")
    return uri


class MlflowSync:
    """Sends the entries of one journal to one tracking server. Not thread-safe."""

    def __init__(self, journal: Journal, tracking_uri: str) -> None:
        self.journal = journal
        self.tracking_uri = tracking_uri
        self.trouble = ""
        """Why the last call of `catch_up` was incomplete."""
        self.refusals: list[str] = []
        """One line for each value that the server rejected."""
        self._client: MlflowClient | None = None
        self._answered = False
        self._first_asked: float | None = None
        self._experiment_id = ""
        # Entries that an earlier process or a failed request may have logged.
        self._doubtful = {entry.n for entry in journal.pending()}

    def catch_up(self) -> bool:
        """Send pending entries. Returns True if none is left."""
        self.trouble = ""
        pending = self.journal.pending()
        if not pending:
            return True
        if not self._open():
            return False
        for group in requests(self.journal.pending()):
            if not self._try(group):
                break
        return not self.journal.pending()

    def recheck(self) -> bool:
        """Make pending again what the server has lost, as by a backup that was put back. Returns False if it does not answer.

        Raises:
            ConvoyError: the run was deleted on the server, or its parent is not there.
        """
        self.trouble = ""
        if not self._open():
            return False
        assert self._client is not None
        try:
            with logs.kept():
                run = self._client.get_run(self.journal.accepted.run_id)
                if run.info.lifecycle_stage == "deleted":
                    where = f"{self.journal.run_dir}: its run was deleted in MLflow at {mask_value(self.tracking_uri)}"
                    command = f"mlflow runs restore --run-id {run.info.run_id}"
                    raise ConvoyError(f"{where}; restore it there ({command}), or name another server")
                lost = comparison.lost_entries(self._client, run, self.journal)
                for key, value in parent.tags(self.journal, self.tracking_uri).items():
                    if run.data.tags.get(key) != value:
                        self._client.set_tag(run.info.run_id, key, value)
        except ConvoyError:
            raise
        except Exception as error:
            self._client = None
            self._trouble("the run could not be compared with its record", error)
            return False
        self._doubtful |= lost
        self.journal.forget(lost)
        return True

    @property
    def silent_seconds(self) -> float:
        """Seconds since the first request to a server that has never answered; 0 if it has, and for a local database."""
        if self._answered or self._first_asked is None or not self.tracking_uri.startswith(("http", "databricks")):
            return 0.0
        return time.monotonic() - self._first_asked

    def forget_doubts(self) -> None:
        """Declare the journal new: none of its entries can have been logged before."""
        self._doubtful.clear()

    def _try(self, group: list[Entry]) -> bool:
        """Send one request. Returns False if the server does not answer, so that trying others is pointless."""
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
                reason = self._apply_each_value(group[0], error)
                if not reason:
                    self.journal.accept(numbers)
                    return True
                _log.warning("%s was rejected: %s", name, reason)
                self.refusals.append(f"a value of {name} was rejected ({reason})")
                self.journal.refuse(group[0].n, reason)
                return True
            self._trouble(f"{name} could not be logged", error)
            return not server_compat.is_silence(error)
        self._answered = True
        self.journal.accept(numbers, model_uri)
        return True

    def _open(self) -> bool:
        """Connect and find or create the run. Returns False if that failed."""
        try:
            server_compat.check_same_sqlite(self.tracking_uri)
            with logs.kept():
                self._client = self._client or self._connect()
        except Exception as error:
            self._client = None
            self._trouble("the run could not be opened", error)
        return self._client is not None

    def _connect(self) -> "MlflowClient":
        server_compat.answer_soon()
        # At the end of a run MLflow would print its address, with the password in it.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        server_compat.check_sqlite(self.tracking_uri)
        import mlflow

        logs.silence_mlflow()
        self._first_asked = self._first_asked or time.monotonic()
        client = mlflow.MlflowClient(self.tracking_uri)
        entry, accepted = self.journal.opening, self.journal.accepted
        run_id = accepted.run_id if accepted.tracking_uri == mask_value(self.tracking_uri) else ""
        if not run_id and entry.values["tracking_uri"] == mask_value(self.tracking_uri):
            run_id = entry.values.get("run_id", "")
        if run_id:
            try:
                self._experiment_id = client.get_run(run_id).info.experiment_id
            except Exception as error:
                if not server_compat.is_absence(error):
                    raise
                _log.warning("MLflow has lost run %s", run_id)
                # A replay whose record was lost may have created it again.
                self._doubtful |= {entry.n for entry in self.journal.entries()}
                run_id = ""
        if not run_id:
            self._experiment_id = server_compat.experiment_id(client, entry.values["experiment"], self.tracking_uri)
            self._answered = True
            run_id = self._find_or_create(client, entry)
        self._answered = True
        self.journal.opened(self.tracking_uri, run_id)
        self.journal.accept([entry.n])
        return client

    def _find_or_create(self, client: "MlflowClient", entry: Entry) -> str:
        key, tags = entry.values["key"], parent.tags(self.journal, self.tracking_uri)
        if entry.n in self._doubtful:
            runs = client.search_runs([self._experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
            if runs:
                return str(runs[0].info.run_id)
        parent.check(client, tags)
        self._doubtful.add(entry.n)
        name = entry.values["name"]
        created = client.create_run(self._experiment_id, start_time=entry.time, tags={KEY_TAG: key} | tags, run_name=name)
        return str(created.info.run_id)

    def _apply(self, group: list[Entry]) -> str:
        """Perform the actions of a group. Returns the URI if that is a model."""
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
        """Log the values of a rejected entry one by one. Returns why the rest was rejected."""
        parts = single_values(entry)
        if len(parts) < 2:
            return first_line(error)
        rejected = []
        for key, part in parts:
            try:
                self._apply([part])
            except Exception as own_error:
                rejected.append(f"{key}: {first_line(own_error)}")
        return "; ".join(rejected)

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
