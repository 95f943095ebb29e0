"""Upload files to a Databricks workspace, create a job there and start it."""

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
from databricks.sdk.errors import DatabricksError, NotFound, PermissionDenied, Unauthenticated
from databricks.sdk.service.jobs import JobsAPI, JobSettings
from databricks.sdk.service.workspace import ImportFormat

from pipelines.errors import ConfigError, LaunchError
from pipelines.system.secrets import first_line
from tools.databricks.bundle import Deployment

# The SDK retries a call that gets no answer. Until the first answer a wrong address is likelier than a network fault.
_FIRST_RETRY_SECONDS = 3
_RETRY_SECONDS = 300
_HTTP_TIMEOUT_SECONDS = 20
_CREDENTIALS_REMEDY = "set DATABRICKS_HOST and DATABRICKS_TOKEN, or DATABRICKS_CONFIG_PROFILE to a profile in ~/.databrickscfg"


def connect() -> tuple[WorkspaceClient, str]:
    """A client with the credentials of the environment or ~/.databrickscfg, and the name of their user.

    Raises:
        ConfigError: there are no credentials.
        LaunchError: the credentials are refused, or the workspace does not answer.
    """
    # The errors raised below say whatever the SDK would warn of here.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)
    try:
        config = Config(retry_timeout_seconds=_FIRST_RETRY_SECONDS, http_timeout_seconds=_HTTP_TIMEOUT_SECONDS)
    except ValueError as error:
        raise ConfigError(f"no credentials for a Databricks workspace ({first_line(error)}); {_CREDENTIALS_REMEDY}") from None
    with api_errors(config.host, "requesting the current user"):
        user = WorkspaceClient(config=config).current_user.me().user_name or ""
    config = config.copy()
    config.retry_timeout_seconds = _RETRY_SECONDS
    return WorkspaceClient(config=config), user


@contextmanager
def api_errors(host: str | None, action: str) -> Iterator[None]:
    """Turn the SDK's exceptions into a one-line error with a remedy."""
    try:
        yield
    except Unauthenticated as error:
        problem = f"the credentials were refused while {action} ({first_line(error)})"
        raise LaunchError(f"{host}: {problem}; {_CREDENTIALS_REMEDY}") from error
    except PermissionDenied as error:
        remedy = "ask the workspace's administrator for it, or use other credentials"
        raise LaunchError(f"{host}: permission denied while {action} ({first_line(error)}); {remedy}") from error
    except (TimeoutError, requests.RequestException) as error:
        cause = error.__cause__ or error
        raise LaunchError(
            f"{host}: no answer while {action} ({first_line(cause)}); check DATABRICKS_HOST and the network"
        ) from error
    except DatabricksError as error:
        raise LaunchError(f"{host}: refused while {action} ({first_line(error)})") from error


def upload(client: WorkspaceClient, deployment: Deployment, wheel: Path) -> int:
    """Upload the job's files, without credentials, and the wheel, overwriting older ones. Returns the number of files.

    Raises:
        LaunchError: the workspace refuses.
    """
    files = {upload.target: upload.content for upload in deployment.uploads} | {deployment.wheel: wheel.read_bytes()}
    with api_errors(client.config.host, "uploading files"):
        for folder in sorted({str(PurePosixPath(target).parent) for target in files}):
            client.workspace.mkdirs(folder)
        for target, content in files.items():
            client.workspace.upload(target, content, format=ImportFormat.AUTO, overwrite=True)
    return len(files)


def find_job(client: WorkspaceClient, deployment: Deployment, user: str) -> int | None:
    """ID of the user's own job of this name; None if there is none.

    A job of another user is never updated: it runs in that user's name. Neither are the files that it reads.

    Raises:
        LaunchError: only another user has such a job, and its files are not in the own folder; or the workspace refuses.
    """
    name, other = str(deployment.job["name"]), None
    with api_errors(client.config.host, "looking for the job"):
        for existing in client.jobs.list(name=name):
            owner = existing.creator_user_name or user
            if existing.job_id is not None and owner.casefold() == user.casefold():
                return int(existing.job_id)
            other = f"job {existing.job_id} '{name}' belongs to {owner}"
    if other and f"/Users/{user}/" not in deployment.wheel:
        raise LaunchError(f"{client.config.host}: {other}; have its owner submit it or delete it, or take another --target")
    return None


def put_job(client: WorkspaceClient, settings: Mapping[str, Any], job_id: int | None) -> int:
    """Update a job, or create it if `job_id` is None. Returns its ID.

    Raises:
        ConfigError: a setting is unknown to the Jobs API.
        LaunchError: the workspace refuses.
    """
    job = validated(settings)
    with api_errors(client.config.host, "creating the job"):
        if job_id is not None:
            client.jobs.reset(job_id, job)
            return job_id
        fields = {name: getattr(job, name) for name in inspect.signature(JobsAPI.create).parameters if hasattr(job, name)}
        created = client.jobs.create(**fields)
    return int(created.job_id)


def start(client: WorkspaceClient, job_id: int, parameters: Mapping[str, str]) -> int:
    """Start the job exactly once, even if the answer to the first call is lost. Returns the run's ID.

    Raises:
        LaunchError: the workspace refuses.
    """
    with api_errors(client.config.host, "starting the job"):
        started = client.jobs.run_now(job_id, job_parameters=dict(parameters) or None, idempotency_token=uuid.uuid4().hex)
    return int(started.run_id)


def validated(settings: Mapping[str, Any]) -> JobSettings:
    """The settings as the SDK's type. The SDK silently drops what it does not know, so the result is compared with the input.

    Raises:
        ConfigError: names the first setting that would be dropped.
    """
    job = JobSettings.from_dict(dict(settings))
    dropped = next(differences(settings, job.as_dict()), None)
    if dropped is not None:
        raise ConfigError(f"conf/databricks: {dropped}: not a setting of a Databricks job, or a value of the wrong type")
    return job


def differences(expected: Any, actual: Any, path: str = "job") -> Iterator[str]:
    """Paths of the values that are missing from `actual` or differ there."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for key, value in expected.items():
            if key in actual or value not in ({}, [], None):
                yield from differences(value, actual.get(key), f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(left, right, f"{path}[{index}]")
    elif expected != actual:
        yield path


def mlflow_page(client: WorkspaceClient, run_id: str) -> str:
    """URL of an MLflow run's page, or why there is none."""
    try:
        run = client.experiments.get_run(run_id).run
    except NotFound:
        return "not found in this workspace"
    except (DatabricksError, TimeoutError, requests.RequestException) as error:
        return f"the workspace did not say where its page is ({first_line(error)})"
    experiment = run.info.experiment_id if run is not None and run.info is not None else ""
    return f"{client.config.host}/ml/experiments/{experiment}/runs/{run_id}" if experiment else "not found in this workspace"


def check(deployment: Deployment, parameters: Mapping[str, str]) -> None:
    """Raises ConfigError if the job's settings are invalid or the job does not declare one of the parameters."""
    for name in parameters:
        if name not in deployment.parameters:
            raise ConfigError(f"--param {name}: must be one of {', '.join(deployment.parameters)} (parameters of the job)")
    validated(deployment.job)


def submit(
    client: WorkspaceClient,
    user: str,
    deployment: Deployment,
    wheel: Path,
    parameters: Mapping[str, str],
    say: Callable[[str], None],
) -> int:
    """Upload the files, create or update the job, and start it.

    Args:
        client: the workspace's client.
        user: the name of its user.
        deployment: the job.
        wheel: Convoy's wheel.
        parameters: override the job's defaults in this run.
        say: receives progress lines.

    Returns:
        the run's ID.

    Raises:
        ConvoyError: something is refused; the message says what, and the remedy.
    """
    check(deployment, parameters)
    existing = find_job(client, deployment, user)
    count = upload(client, deployment, wheel)
    say(f"{count} files uploaded, the wheel to {deployment.wheel}")
    job_id = put_job(client, deployment.job, existing)
    say(f"job {job_id}: {deployment.job['name']}")
    return start(client, job_id, parameters)
