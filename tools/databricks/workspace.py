"""A Databricks workspace: put files and a job there, and start it."""

import inspect
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.errors import DatabricksError, PermissionDenied, Unauthenticated
from databricks.sdk.service.jobs import JobsAPI, JobSettings
from databricks.sdk.service.workspace import ImportFormat

from pipelines.errors import ConfigError, LaunchError
from pipelines.system.secrets import mask
from tools.databricks.bundle import Deployment

# The SDK repeats a call while nobody answers. Until the first answer a wrong address is likelier than a network at fault.
_FIRST_REPEATS_SECONDS = 3
_REPEATS_SECONDS = 300
_ANSWER_SECONDS = 20
_SET_UP = "set DATABRICKS_HOST and DATABRICKS_TOKEN, or DATABRICKS_CONFIG_PROFILE to a profile in ~/.databrickscfg"


def connect() -> tuple[WorkspaceClient, str]:
    """A client with the credentials of the environment or ~/.databrickscfg, and the name of the user they belong to.

    Raises:
        ConfigError: there are no credentials.
        LaunchError: they are refused, or the workspace does not answer.
    """
    # What it warns of here ends in one of the lines below.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)
    try:
        config = Config(retry_timeout_seconds=_FIRST_REPEATS_SECONDS, http_timeout_seconds=_ANSWER_SECONDS)
    except ValueError as error:
        raise ConfigError(f"no credentials for a Databricks workspace ({_first_line(error)}); {_SET_UP}") from None
    with answered(config.host):
        user = WorkspaceClient(config=config).current_user.me().user_name or ""
    patient = config.copy()
    patient.retry_timeout_seconds = _REPEATS_SECONDS
    return WorkspaceClient(config=patient), user


@contextmanager
def answered(host: str | None, doing: str = "the workspace was asked who you are") -> Iterator[None]:
    """Turn what the SDK raises into one line that says what to do."""
    try:
        yield
    except Unauthenticated as error:
        raise LaunchError(f"{host}: the credentials were refused when {doing} ({_first_line(error)}); {_SET_UP}") from error
    except PermissionDenied as error:
        remedy = "ask the workspace's administrator for it, or use other credentials"
        raise LaunchError(f"{host}: permission denied when {doing} ({_first_line(error)}); {remedy}") from error
    except (TimeoutError, requests.RequestException) as error:
        cause = error.__cause__ or error
        raise LaunchError(
            f"{host}: no answer when {doing} ({_first_line(cause)}); check DATABRICKS_HOST and the network"
        ) from error
    except DatabricksError as error:
        raise LaunchError(f"{host}: refused when {doing} ({_first_line(error)})") from error


def upload(client: WorkspaceClient, deployment: Deployment, wheel: Path) -> int:
    """Put the job's files and the wheel into the workspace, in place of older ones. Gives how many.

    Raises:
        LaunchError: the workspace refuses.
    """
    files = {upload.target: upload.source for upload in deployment.uploads} | {deployment.wheel: wheel}
    with answered(client.config.host, "files were uploaded"):
        for folder in sorted({str(PurePosixPath(target).parent) for target in files}):
            client.workspace.mkdirs(folder)
        for target, source in files.items():
            client.workspace.upload(target, source.read_bytes(), format=ImportFormat.AUTO, overwrite=True)
    return len(files)


def put_job(client: WorkspaceClient, settings: Mapping[str, Any]) -> int:
    """Create the job, or bring the one of this name to these settings. Gives its id.

    Raises:
        ConfigError: a setting is none that a job has.
        LaunchError: the workspace refuses.
    """
    job = checked(settings)
    with answered(client.config.host, "the job was created"):
        for found in client.jobs.list(name=job.name):
            if found.job_id is not None:
                client.jobs.reset(found.job_id, job)
                return int(found.job_id)
        wanted = {name: getattr(job, name) for name in inspect.signature(JobsAPI.create).parameters if hasattr(job, name)}
        created = client.jobs.create(**wanted)
    return int(created.job_id)


def start(client: WorkspaceClient, job_id: int, parameters: Mapping[str, str]) -> int:
    """Start the job once, even when the answer to the first call is lost. Gives the run's id.

    Raises:
        LaunchError: the workspace refuses.
    """
    with answered(client.config.host, "the job was started"):
        started = client.jobs.run_now(job_id, job_parameters=dict(parameters) or None, idempotency_token=uuid.uuid4().hex)
    return int(started.run_id)


def checked(settings: Mapping[str, Any]) -> JobSettings:
    """The settings as the SDK holds them. It passes over what it does not know, so what comes back is compared.

    Raises:
        ConfigError: names the first setting that would be lost.
    """
    job = JobSettings.from_dict(dict(settings))
    lost = next(differences(settings, job.as_dict()), None)
    if lost is not None:
        raise ConfigError(f"conf/databricks: {lost}: none of the settings that a job of Databricks has, or not of their type")
    return job


def differences(wanted: Any, kept: Any, place: str = "job") -> Iterator[str]:
    """Places of what is wanted and not kept as it is."""
    if isinstance(wanted, Mapping) and isinstance(kept, Mapping):
        for key, value in wanted.items():
            if key in kept or value not in ({}, [], None):
                yield from differences(value, kept.get(key), f"{place}.{key}")
    elif isinstance(wanted, list) and isinstance(kept, list) and len(wanted) == len(kept):
        for number, (one, other) in enumerate(zip(wanted, kept, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif wanted != kept:
        yield place


def mlflow_page(client: WorkspaceClient, run_id: str) -> str:
    """The address of an MLflow run's page; empty where the workspace does not know the run."""
    try:
        run = client.experiments.get_run(run_id).run
    except DatabricksError:
        return ""
    experiment = run.info.experiment_id if run is not None and run.info is not None else ""
    return f"{client.config.host}/ml/experiments/{experiment}/runs/{run_id}" if experiment else ""


def check(deployment: Deployment, parameters: Mapping[str, str]) -> None:
    """Raises ConfigError when the job is none, or one of the parameters is not of the job."""
    for name in parameters:
        if name not in deployment.parameters:
            raise ConfigError(f"--param {name}: must be one of {', '.join(deployment.parameters)} (parameters of the job)")
    checked(deployment.job)


def submit(
    client: WorkspaceClient, deployment: Deployment, wheel: Path, parameters: Mapping[str, str], say: Callable[[str], None]
) -> int:
    """Upload, create or update the job, and start it.

    Args:
        client: of the workspace.
        deployment: the job.
        wheel: Convoy's, to be uploaded.
        parameters: for this run, in place of the job's defaults.
        say: is given lines for people.

    Returns:
        the run's id.

    Raises:
        ConvoyError: something is refused; the message says what, and what to do.
    """
    check(deployment, parameters)
    count = upload(client, deployment, wheel)
    say(f"{count} files uploaded, the wheel to {deployment.wheel}")
    job_id = put_job(client, deployment.job)
    say(f"job {job_id}: {deployment.job['name']}")
    return start(client, job_id, parameters)


def _first_line(error: BaseException) -> str:
    lines = mask(str(error)).strip().splitlines()
    return (lines or [type(error).__name__])[0][:200]
