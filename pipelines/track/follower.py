"""Brings MLflow to what a journal says, however often it takes, and nothing twice.

An action whose answer was lost may have been done all the same. So the run is looked up by its key before it is created, points
of a metric that the server has are not sent again, and a model is logged once; all other actions are harmless to repeat.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import logs, paths, rundir
from pipelines.config import TrackingConfig
from pipelines.errors import ConvoyError
from pipelines.secrets import mask
from pipelines.track.journal import EXPERIMENT_ID, RUN_ID, Entry, Journal
from pipelines.track.requests import BATCHED, points, requests, single_values

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "convoy.journal"
PARENT_TAG = "mlflow.parentRunId"
# Other errors can pass: a full disk, an expired token, a busy database.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
# MLflow's own defaults try a dead server for minutes. We try again ourselves, with other work between.
_HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
# Another process may be writing to the database.
_LOCKED_SECONDS = 5.0
# MLflow's database looks for a data set before it adds it; two runs of a sweep at once would both add it, and one be refused.
_logging_inputs = threading.Lock()
_log = logging.getLogger(__name__)


def default_tracking_uri(tracking: TrackingConfig) -> str:
    """Where runs go: the setting, else MLFLOW_TRACKING_URI, else the workspace, or off Databricks a file in the home folder."""
    fallback = "databricks" if paths.on_databricks() else f"sqlite:///{paths.home().absolute() / 'mlflow.db'}"
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or fallback


class Follower:
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
            if _is_refusal(error) and len(group) > 1:
                return all(self._try([entry]) for entry in group)
            name = _name(group[0])
            if _is_refusal(error):
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
            return not _is_silence(error)
        self._answered = True
        self.journal.accept(numbers, model_uri)
        return True

    def _open(self, pending: Sequence[Entry]) -> None:
        """Connect, and find or create the run."""
        if self._client is not None:
            return
        for name, value in _HTTP.items():
            os.environ.setdefault(name, value)
        _check_sqlite(self.tracking_uri)
        import mlflow

        logs.silence_mlflow()
        self._first_asked = self._first_asked or time.monotonic()
        client = mlflow.MlflowClient(self.tracking_uri)
        entry = next(entry for entry in self.journal.entries() if entry.action == "open")
        accepted = self.journal.accepted
        run_id = accepted.run_id if accepted.tracking_uri == mask(self.tracking_uri) else ""
        if not run_id and entry.values["tracking_uri"] == mask(self.tracking_uri):
            run_id = entry.values.get("run_id", "")
        if run_id:
            self._experiment_id = client.get_run(run_id).info.experiment_id
        else:
            self._experiment_id = _experiment_id(client, entry.values["experiment"], self.tracking_uri)
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
        parent = Path(os.path.normpath(self.journal.run_dir / entry.values["parent"]))
        record = rundir.read_record(parent)
        if record is None or record.tracking_uri != mask(self.tracking_uri):
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
            _log_inputs(client, run_id, values["datasets"])
        elif entry.action == "artifact":
            client.log_artifact(run_id, str(self.journal.run_dir / values["path"]), values["folder"] or None)
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
            return _first_line(error)
        refused = []
        for key, part in parts:
            try:
                self._apply([part])
            except Exception as alone:
                refused.append(f"{key}: {_first_line(alone)}")
        return "; ".join(refused)

    def _log_model(self, client: "MlflowClient", run_id: str, entry: Entry) -> str:
        from pipelines.track.model import adopt, logged_uri

        if entry.n in self._doubtful:
            uri = logged_uri(client, run_id, self._experiment_id)
            if uri:
                return uri
        self._doubtful.add(entry.n)
        return adopt(self.journal.run_dir / entry.values["path"], run_id, self._experiment_id, self.tracking_uri)

    def _trouble(self, what: str, error: Exception) -> None:
        _log.warning("%s", what, exc_info=error)
        self.trouble = self.trouble or f"{what}: {_first_line(error)}"


def _name(entry: Entry) -> str:
    return str(entry.values["path"]) if entry.action == "artifact" else entry.action


def _log_inputs(client: "MlflowClient", run_id: str, datasets: Sequence[dict[str, Any]]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=dataset["name"],
                digest=dataset["digest"],
                source_type="local",
                source=dataset["source"],
                profile=dataset["profile"],
            ),
            [InputTag("mlflow.data.context", dataset["context"])],
        )
        for dataset in datasets
    ]
    with _logging_inputs:
        client.log_inputs(run_id, inputs)


def _experiment_id(client: "MlflowClient", name: str, tracking_uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # A database store would put artifacts into the working directory.
    location = f"file:{paths.home().absolute() / 'mlartifacts' / name}" if tracking_uri.startswith("sqlite:") else None
    # Has MLflow 3's pages show what belongs to training, not to language models.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(name, artifact_location=location, tags=kind))


def _check_sqlite(tracking_uri: str) -> None:
    """Raises sqlite3.Error at once where a database file cannot be written; MLflow itself would try for 100 seconds."""
    path = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    if path == tracking_uri or not path:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute("CREATE TABLE convoy_can_write (x)")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")


def _is_refusal(error: Exception) -> bool:
    """True when the same request would be refused again, by the server or, for what is no text or number, by MLflow's client."""
    return isinstance(error, TypeError | AttributeError) or getattr(error, "error_code", "") in _REFUSALS


def _is_silence(error: Exception) -> bool:
    """True when the server could not be reached or did not answer. MLflow wraps the network's exceptions in its own."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ConnectionError | TimeoutError) or type(chain).__module__.startswith(("requests.", "urllib3.")):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _first_line(error: Exception) -> str:
    return mask((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
