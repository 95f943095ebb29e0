"""What a tracking server has lost of a run: entries of the journal that it once accepted."""

from typing import TYPE_CHECKING

from pipelines.track.mlflow import logged_model
from pipelines.track.mlflow.batching import points
from pipelines.track.mlflow.journal import Journal
from pipelines.track.mlflow.journal_file import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def lost_entries(client: "MlflowClient", run: "Run", journal: Journal) -> set[int]:
    """Numbers of the accepted entries of which a run lacks something. Values that were changed on the server are not missed."""
    have = _Contents(client, run)
    entries = [entry for entry in journal.entries() if entry.n in journal.accepted.entries]
    statuses = [entry for entry in entries if entry.action == "status"]
    # An earlier status has been replaced.
    current = [entry for entry in entries if entry.action != "status"] + statuses[-1:]
    return {entry.n for entry in current if not have.has(entry)}


class _Contents:
    """A run as the server has it. What takes a request of its own is asked for once, when it is needed."""

    def __init__(self, client: "MlflowClient", run: "Run") -> None:
        self._client = client
        self._run = run
        # A server before MLflow 2.4 knows no inputs.
        inputs = run.inputs.dataset_inputs if run.inputs is not None else None
        self._inputs = None if inputs is None else {(each.dataset.name, each.dataset.digest) for each in inputs}
        self._histories: dict[str, set[tuple[int, int]]] = {}
        self._folders: dict[str, set[str]] = {}

    def has(self, entry: Entry) -> bool:
        values, data = entry.values, self._run.data
        if entry.action == "params":
            return values.keys() <= set(data.params)
        if entry.action == "tags":
            return values.keys() <= set(data.tags)
        if entry.action == "metrics":
            return all((values["step"], entry.time) in self._history(key) for key, _ in points(entry))
        if entry.action == "inputs":
            recorded = {(each["name"], each["digest"]) for each in values["datasets"]}
            return self._inputs is None or recorded <= self._inputs
        if entry.action == "artifact":
            folder, name = values["folder"], str(values["path"]).rpartition("/")[2]
            return (f"{folder}/{name}" if folder else name) in self._files(folder)
        if entry.action == "model":
            return bool(logged_model.logged_uri(self._client, self._run.info.run_id, self._run.info.experiment_id))
        if entry.action == "status":
            return str(self._run.info.status) == str(values["status"])
        return True

    def _history(self, key: str) -> set[tuple[int, int]]:
        if key not in self._run.data.metrics:
            return set()
        if key not in self._histories:
            history = self._client.get_metric_history(self._run.info.run_id, key)
            self._histories[key] = {(point.step, point.timestamp) for point in history}
        return self._histories[key]

    def _files(self, folder: str) -> set[str]:
        if folder not in self._folders:
            files = self._client.list_artifacts(self._run.info.run_id, folder or None)
            self._folders[folder] = {file.path for file in files}
        return self._folders[folder]
