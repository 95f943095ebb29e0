"""Follow a run of a Databricks job to its end."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import DatabricksError, DeadlineExceeded, InternalError, TemporarilyUnavailable
from databricks.sdk.service.jobs import Run, RunLifeCycleState, RunResultState, RunState, RunTask

from pipelines.system.secrets import mask
from tools.databricks.workspace import answered

_ENDED = (RunLifeCycleState.TERMINATED, RunLifeCycleState.SKIPPED, RunLifeCycleState.INTERNAL_ERROR)
_FAULTS_SECONDS = 300
_MLFLOW_RUN = re.compile(r"^run\s+([0-9a-f]{32})\b", re.M)
_SHOWN_LINES = 12


@dataclass(frozen=True)
class JobOutcome:
    """How a run ended."""

    page: str
    """The address of its page."""
    succeeded: bool
    reason: str
    """One line; empty where it succeeded."""
    details: str
    """The end of the output of the task that failed."""
    mlflow_runs: tuple[str, ...]
    """Ids of the MLflow runs that the tasks reported, in their order."""


def follow(client: WorkspaceClient, run_id: int, say: Callable[[str], None], poll_seconds: float = 5) -> JobOutcome:
    """Tell the address of the run's page, then each change of state of the run and its tasks until it has ended.

    Args:
        client: of the workspace.
        run_id: of the run.
        say: is given lines for people.
        poll_seconds: from one look to the next.

    Raises:
        LaunchError: the workspace refuses, or has not answered for five minutes. The run goes on.
    """
    told: dict[str, str] = {}
    started = time.monotonic()
    while True:
        run = _look(client, run_id, poll_seconds)
        if not told:
            say(f"run {run_id}: {run.run_page_url}")
        for name, state in _states(run):
            if told.get(name) != state:
                told[name] = state
                say(f"{_clock(time.monotonic() - started)}  {name:10} {state}")
        if run.state is not None and run.state.life_cycle_state in _ENDED:
            return _outcome(client, run, run.state)
        time.sleep(poll_seconds)


def cancel(client: WorkspaceClient, run_id: int) -> None:
    """Ask for the end of a run. Raises LaunchError when the workspace refuses."""
    with answered(client.config.host, "the run was cancelled"):
        client.jobs.cancel_run(run_id)


def _look(client: WorkspaceClient, run_id: int, pause: float) -> Run:
    """The SDK itself repeats a call that was not answered or put off (429, 503); here other faults of the service are."""
    deadline = time.monotonic() + _FAULTS_SECONDS
    while True:
        with answered(client.config.host, f"run {run_id} was looked at; the run goes on"):
            try:
                return client.jobs.get_run(run_id)
            except DatabricksError as error:
                if not _is_fault_of_the_service(error) or time.monotonic() > deadline:
                    raise
        time.sleep(pause)


def _is_fault_of_the_service(error: DatabricksError) -> bool:
    """Status 500, 502, 503 or 504."""
    return isinstance(error, InternalError | TemporarilyUnavailable | DeadlineExceeded) or error.error_code == "BAD_GATEWAY"


def _states(run: Run) -> Iterator[tuple[str, str]]:
    for task in run.tasks or ():
        yield task.task_key, _named(task.state)
    yield "run", _named(run.state)


def _named(state: RunState | None) -> str:
    """TERMINATED says little; then the result does."""
    if state is None or state.life_cycle_state is None:
        return "unknown"
    shown = state.result_state or state.life_cycle_state
    return str(shown.value).lower().replace("_", " ")


def _outcome(client: WorkspaceClient, run: Run, state: RunState) -> JobOutcome:
    succeeded = state.result_state is RunResultState.SUCCESS
    found: list[str] = []
    reason, details = "", ""
    for task in run.tasks or ():
        logs, error = _output(client, task)
        found += _MLFLOW_RUN.findall(logs)
        if not reason and task.state is not None and task.state.result_state in (RunResultState.FAILED, RunResultState.TIMEDOUT):
            said = error or task.state.state_message or "no reason given"
            reason = f"task {task.task_key} {_named(task.state)}: {mask(said).strip().splitlines()[0]}"
            details = "\n".join("    " + line for line in mask(logs).strip().splitlines()[-_SHOWN_LINES:])
    if not succeeded and not reason:
        message = mask(state.state_message or "").strip().splitlines()
        reason = f"the run is {_named(state)}" + (f": {message[0]}" if message else "")
    return JobOutcome(
        page=run.run_page_url or "", succeeded=succeeded, reason=reason, details=details, mlflow_runs=tuple(dict.fromkeys(found))
    )


def _output(client: WorkspaceClient, task: RunTask) -> tuple[str, str]:
    """What a task printed and why it failed; empty where the workspace has nothing, as for a task that never started."""
    if task.run_id is None:
        return "", ""
    try:
        output = client.jobs.get_run_output(task.run_id)
    except DatabricksError:
        return "", ""
    return output.logs or "", output.error or ""


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3}:{int(seconds) % 60:02}"
