"""Find a logged model by its URI, or the newest one, and download it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError, ConvoyError
from pipelines.score import model_info
from pipelines.score.mlflow_client import connect, quiet
from pipelines.score.model_info import ModelInfo
from pipelines.system import paths, temporary
from pipelines.system.secrets import first_line, mask

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_URI_FORMS = "runs:/RUN/model, models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or a folder with an MLmodel file"
_MAX_RUNS = 200


def find(uri: str, tracking_uri: str, experiment: str = "") -> ModelInfo:
    """Download a model to a local folder and read its description.

    Args:
        uri: a model URI of MLflow, or a folder; empty for the model of the newest finished run.
        tracking_uri: the tracking server.
        experiment: the experiment to search for the newest run.

    Raises:
        ConfigError: there is no model at the URI, or it does not take images.
        ConvoyError: the server did not answer.
    """
    client = connect(tracking_uri, registered_name(uri))
    requested = uri
    if not uri:
        uri = _newest_model(client, experiment)
    folder = Path() if _has_scheme(uri) else paths.to_mlflow(paths.given(uri), "--model ")
    version = ""
    if _has_scheme(uri):
        try:
            uri, version = _resolve_alias(client, uri)
            folder = _download(uri)
        except Exception as error:
            problem = f"could not be fetched from {mask(tracking_uri)} ({first_line(error)})"
            raise ConfigError(f"--model {requested or uri}: {problem}; use {_URI_FORMS}") from error
    if not (folder / "MLmodel").is_file():
        if not requested:
            remedy = "./convoy replay with the folder of its run sends it again, or name another"
            raise ConfigError(f"--model: {uri}, the newest, was not sent to {mask(tracking_uri)} whole; {remedy}: {_URI_FORMS}")
        raise ConfigError(f"--model {requested}: no MLmodel file in {folder}; use {_URI_FORMS}")
    return model_info.read(folder, uri, version)


def _newest_model(client: "MlflowClient", experiment_name: str) -> str:
    for run in _finished_runs(client, experiment_name):
        if _has_model(run):
            return f"runs:/{run.info.run_id}/model"
    raise ConfigError(
        f"--model: experiment '{experiment_name}' has no finished run with a model; train one, or name one: {_URI_FORMS}"
    )


def _finished_runs(client: "MlflowClient", experiment_name: str) -> "Sequence[Run]":
    try:
        experiment = client.get_experiment_by_name(experiment_name)
        if experiment is None:
            return []
        runs: Sequence[Run] = client.search_runs(
            [experiment.experiment_id],
            filter_string="attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=_MAX_RUNS,
        )
        return runs
    except Exception as error:
        raise ConvoyError(
            f"--model: the runs of experiment '{experiment_name}' could not be listed ({first_line(error)}); name a model, or "
            "try again later"
        ) from error


def _has_model(run: "Run") -> bool:
    # MLflow 3 lists models as the run's outputs, MLflow 2 in a tag.
    outputs = getattr(getattr(run, "outputs", None), "model_outputs", None)
    return bool(outputs) or "mlflow.log-model.history" in run.data.tags


def registered_name(uri: str) -> str:
    """NAME in models:/NAME/VERSION and models:/NAME@ALIAS; empty for other models."""
    if not uri.startswith("models:/"):
        return ""
    rest = uri.removeprefix("models:/").strip("/")
    return rest.rpartition("@" if "@" in rest else "/")[0]


def _resolve_alias(client: "MlflowClient", uri: str) -> tuple[str, str]:
    """The URI with its alias resolved, and the registry version; empty for models outside the registry."""
    name = registered_name(uri)
    if not name:
        return uri, ""
    version = uri.removeprefix("models:/").strip("/")[len(name) + 1 :]
    if "@" in uri:
        version = str(client.get_model_version_by_alias(name, version).version)
    return f"models:/{name}/{version}", version


def _download(uri: str) -> Path:
    import mlflow.artifacts

    folder = temporary.folder("convoy-model-")
    with quiet():
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))


def _has_scheme(uri: str) -> bool:
    return uri.startswith(("runs:/", "models:/", "mlflow-artifacts:", "http://", "https://", "s3://", "abfss://", "gs://"))
