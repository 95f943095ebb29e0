"""Workarounds for MLflow's servers and databases, and what their errors mean."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.system import paths

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Other errors can be temporary: a full disk, an expired token, a busy database.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
# Another process may be writing to the database.
_LOCKED_SECONDS = 5.0
# MLflow's database store checks and then inserts a data set: of two concurrent trials one would fail.
_logging_inputs = threading.Lock()
# Device and inode of each database file that this process has opened.
_opened: dict[Path, tuple[int, int]] = {}


def answer_soon() -> None:
    """Have MLflow fail soon if its server is dead, which it retries for minutes by default. The journal is retried as a whole."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def log_inputs(client: "MlflowClient", run_id: str, datasets: Sequence[dict[str, Any]]) -> None:
    """Record data sets as inputs of a run; each has a name, digest, source, profile and context."""
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


def experiment_id(client: "MlflowClient", name: str, tracking_uri: str) -> str:
    """ID of the experiment with this name, which is created if it does not exist."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # The default of a database store is the working directory.
    location = _artifacts(name) if tracking_uri.startswith("sqlite:") else None
    # Makes MLflow 3 show its pages for training instead of those for language models.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(name, artifact_location=location, tags=kind))


def _artifacts(experiment: str) -> str:
    """URI of the folder for the artifacts of an experiment, whose name may hold slashes; MLflow decodes it."""
    parts = [part for part in experiment.split("/") if part not in ("", ".", "..")]
    return paths.home().absolute().joinpath("mlartifacts", *parts).as_uri()


def check_sqlite(tracking_uri: str) -> None:
    """Raises sqlite3.Error at once if a database file cannot be written; MLflow itself retries for 100 seconds."""
    path = _sqlite_file(tracking_uri)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute("CREATE TABLE convoy_can_write (x)")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
    _opened.setdefault(path, _identity(path))


def check_same_sqlite(tracking_uri: str) -> None:
    """Raises sqlite3.Error if a database file that this process has opened is gone: MLflow would go on in the deleted one."""
    path = _sqlite_file(tracking_uri)
    if path in _opened and _opened[path] != _identity(path):
        raise sqlite3.OperationalError(f"{path} was deleted or replaced while this process had it open")


def _sqlite_file(tracking_uri: str) -> Path | None:
    path = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    return None if path == tracking_uri or not path else Path(path).absolute()


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino


def is_absence(error: Exception) -> bool:
    """Whether a server's error says that there is no such thing; any other error leaves that open."""
    return getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def is_refusal(error: Exception) -> bool:
    """Whether the request would be rejected again: by the server, or by MLflow's client because of the type of a value."""
    return isinstance(error, TypeError | AttributeError) or getattr(error, "error_code", "") in _REFUSALS


def is_silence(error: Exception) -> bool:
    """Whether the server was unreachable or did not answer. MLflow wraps network exceptions in its own."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ConnectionError | TimeoutError) or type(chain).__module__.startswith(("requests.", "urllib3.")):
            return True
        chain = chain.__cause__ or chain.__context__
    return False
