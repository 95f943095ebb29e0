"""Follow a Databricks job run until it ends."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, DatabricksError, DeadlineExceeded, InternalError, NotFound, TemporarilyUnavailable
from databricks.sdk.service.jobs import Run, RunLifeCycleState, RunResultState, RunState, RunTask

from pipelines.system.secrets import first_line, mask
from tools.databricks.workspace import api_errors

_ENDED = (RunLifeCycleState.TERMINATED, RunLifeCycleState.SKIPPED, RunLifeCycleState.INTERNAL_ERROR)
_RETRY_SECONDS = 300
_MLFLOW_RUN = re.compile(r"^run\s+([0-9a-f]{32})\b", re.M)
_SHOWN_LINES = 12


@dataclass(frozen=True)
class JobOutcome:
    """How a run ended."""

    page: str
    """URL of the run's page."""
    succeeded: bool
    reason: str
    """One line; empty if the run succeeded."""
    details: str
    """The last lines of the failed task's output."""
    mlflow_runs: tuple[str, ...]
    """IDs of the MLflow runs that the tasks reported, in order."""


def follow(client: WorkspaceClient, run_id: int, say: Callable[[str], None], poll_seconds: float = 5) -> JobOutcome:
    """Report the URL of the run's page, then each state change of the run and its tasks until the run ends.

    Args:
        client: the workspace's client.
        run_id: the run's ID.
        say: receives progress lines.
        poll_seconds: time between two status requests.

    Raises:
        LaunchError: the workspace refuses, or has not answered for five minutes. The run continues.
    """
    reported: dict[str, str] = {}
    started = time.monotonic()
    while True:
        run = _get_run(client, run_id, poll_seconds)
        if not reported:
            say(f"run {run_id}: {run.run_page_url}")
        for name, state in _states(run):
            if reported.get(name) != state:
                reported[name] = state
                say(f"{_clock(time.monotonic() - started)}  {name:10} {state}")
        if run.state is not None and run.state.life_cycle_state in _ENDED:
            return _outcome(client, run, run.state)
        time.sleep(poll_seconds)


def cancel(client: WorkspaceClient, run_id: int) -> None:
    """Request cancellation of a run. Raises LaunchError if the workspace refuses."""
    with api_errors(client.config.host, "cancelling the run"):
        client.jobs.cancel_run(run_id)


def _get_run(client: WorkspaceClient, run_id: int, retry_interval: float) -> Run:
    """Retries server errors. The SDK itself retries only calls that got no answer or were throttled (429, 503)."""
    deadline = time.monotonic() + _RETRY_SECONDS
    while True:
        with api_errors(client.config.host, f"requesting the state of run {run_id}; the run continues"):
            try:
                return client.jobs.get_run(run_id)
            except DatabricksError as error:
                if not _is_server_error(error) or time.monotonic() > deadline:
                    raise
        time.sleep(retry_interval)


def _is_server_error(error: DatabricksError) -> bool:
    """Status 500, 502, 503 or 504."""
    return isinstance(error, InternalError | TemporarilyUnavailable | DeadlineExceeded) or error.error_code == "BAD_GATEWAY"


def _states(run: Run) -> Iterator[tuple[str, str]]:
    for task in run.tasks or ():
        yield task.task_key, _state_name(task.state)
    yield "run", _state_name(run.state)


def _state_name(state: RunState | None) -> str:
    """A state's name. TERMINATED does not say how the run ended, so the result state replaces it."""
    if state is None or state.life_cycle_state is None:
        return "unknown"
    return str((state.result_state or state.life_cycle_state).value).lower().replace("_", " ")


def _outcome(client: WorkspaceClient, run: Run, state: RunState) -> JobOutcome:
    succeeded = state.result_state is RunResultState.SUCCESS
    mlflow_runs: list[str] = []
    reason, details = "", ""
    for task in run.tasks or ():
        logs, error = _output(client, task)
        mlflow_runs += _MLFLOW_RUN.findall(logs)
        if not reason and task.state is not None and task.state.result_state in (RunResultState.FAILED, RunResultState.TIMEDOUT):
            message = error or task.state.state_message or "no reason given"
            reason = f"task {task.task_key} {_state_name(task.state)}: {first_line(message)}"
            details = "\n".join("    " + line for line in mask(logs).strip().splitlines()[-_SHOWN_LINES:])
    if not succeeded and not reason:
        message = first_line(state.state_message or "")
        reason = f"the run is {_state_name(state)}" + (f": {message}" if message else "")
    return JobOutcome(
        page=run.run_page_url or "",
        succeeded=succeeded,
        reason=reason,
        details=details,
        mlflow_runs=tuple(dict.fromkeys(mlflow_runs)),
    )


def _output(client: WorkspaceClient, task: RunTask) -> tuple[str, str]:
    """A task's output and error message; empty where the workspace has none, as for a task that never started.

    If the workspace does not answer, the output says so.
    """
    if task.run_id is None:
        return "", ""
    try:
        output = client.jobs.get_run_output(task.run_id)
    except (NotFound, BadRequest):
        return "", ""
    except (DatabricksError, TimeoutError, requests.RequestException) as error:
        return f"the workspace did not hand over this output ({first_line(error)}); it is on the page of the run", ""
    return output.logs or "", output.error or ""


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3}:{int(seconds) % 60:02}"
