"""Runs a function on N Horovod ranks at once, as one Spark barrier stage.

Spark starts all tasks of a barrier stage together or none. Each task becomes the supervisor of one rank
(`pipelines.launch.workers.supervisor`), which runs the function in a separate process. When a rank fails, Spark ends the stage,
the supervisors die, and the kernel kills their ranks.
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
from pyspark.sql import SparkSession

from pipelines.config import LaunchConfig
from pipelines.errors import LaunchError
from pipelines.launch import session, slots, tasks
from pipelines.launch.health import heartbeat
from pipelines.launch.health.failures import (
    Failure,
    extract,
    failed_task,
    failure_from_lost_task,
    headline,
    read_failures,
    write_failure,
)
from pipelines.launch.rendezvous import server
from pipelines.launch.workers import commands
from pipelines.launch.workers.supervisor import Assignment, log_path, supervise
from pipelines.system import connect, spark_submit
from pipelines.system.secrets import first_line
from pipelines.track.rundir import layout

_log = logging.getLogger(__name__)

# The other ranks' failure reports arrive within this time after the first.
_SETTLE_SECONDS = 1.0
_SPARK_ENDED = ("SparkContext was shut down", "SparkContext has been shutdown", "Answer from Java side is empty")
_SIGNAL_SECONDS = 10.0


class RankError(LaunchError):
    """A rank failed."""

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        super().__init__(headline(failures[0]))
        self.details = failures[0].details if failures[0].user_error else failures[0].traceback
        self.exit_code = failures[0].exit_code
        self.failures = failures
        """Reports of all failed ranks, the cause first."""

    @property
    def lost(self) -> bool:
        """Whether a worker was lost, rather than its code having failed."""
        return self.failures[0].lost or self.failures[0].is_effect


class WorkerGroup:
    """A group of running ranks. Poll `done`, then call `results`; `cancel` stops the ranks early."""

    def __init__(self, spark: SparkSession, assignment: Assignment, workers: int) -> None:
        self._spark = spark
        self._is_local = session.runs_here(spark)
        self._assignment = assignment
        self._workers = workers
        self.attempt_dir = Path(assignment.attempt_dir)
        """Folder of the heartbeats and failure reports of this start."""
        # Spark then kills the Python worker of a cancelled task, and thereby the rank.
        self._jobs = connect.JobGroup(spark, "Horovod ranks", interrupt=True)
        self._results: list[Any] = []
        self._error: Exception | None = None
        self._aborted_for: tuple[Failure, ...] = ()
        self._thread = threading.Thread(target=self._run, name="barrier-stage", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> bool:
        """Wait until all ranks have ended, for at most `seconds`. Returns whether they have."""
        self._thread.join(seconds)
        return self.done

    def cancel(self) -> None:
        """Stop all ranks and wait for at most 10 seconds, of which rank 0 has a few to write a checkpoint."""
        commands.send(self.attempt_dir, commands.STOP)
        self._thread.join(commands.GRACE_SECONDS + 1)
        self._end_stage(5)

    def abort(self, failures: tuple[Failure, ...]) -> None:
        """Kill all ranks immediately, because of these failures; `results` then raises RankError with them."""
        self._aborted_for = failures
        # On record before the act: supervisors report that their ranks were killed, but not by whom.
        for failure in failures:
            with contextlib.suppress(OSError):
                write_failure(self.attempt_dir, failure)
        commands.send(self.attempt_dir, commands.KILL)
        self._thread.join(2)
        self._end_stage(10)

    def _end_stage(self, seconds: float) -> None:
        if self.done:
            return
        try:
            self._jobs.cancel()
        except Exception:
            # Ctrl-C reaches Spark's JVM, too; if the JVM has exited, so have its tasks.
            _log.info("Spark could not cancel the workers", exc_info=True)
        self._thread.join(seconds)

    def results(self) -> list[Any]:
        """The function's return values, in rank order.

        Raises:
            RankError: a rank failed; the message names the rank and the cause.
            LaunchError: Spark could not run the stage.
        """
        if self._aborted_for:
            raise RankError(self._aborted_for)
        self._thread.join()
        if self._error is None:
            return self._results
        if spark_submit.is_submitted() and any(message in str(self._error) for message in _SPARK_ENDED):
            # spark-submit was signalled to end, and the same signal is about to end this process.
            time.sleep(_SIGNAL_SECONDS)
        failures = self._settled_failures() or extract(str(self._error))
        if all(failure.is_effect for failure in failures):
            silent = self._failures_of_silent_ranks(failures)
            # Spark names the task because of which it ended the stage; its rank is the cause.
            cause = failed_task(str(self._error))
            failures = (*sorted(silent, key=lambda failure: failure.rank != cause), *failures)
        if failures:
            raise RankError(failures) from self._error
        raise LaunchError(f"Spark could not run the workers: {_reason(self._error)}") from self._error

    def _run(self) -> None:
        try:
            with self._jobs, self._with_placements() as assignment:
                pairs = tasks.run(self._spark, partial(supervise, assignment), self._workers, barrier=True)
            self._results = [cloudpickle.loads(result) for _, result in sorted(pairs)]
        except Exception as error:
            self._error = error

    @contextlib.contextmanager
    def _with_placements(self) -> Iterator[Assignment]:
        """The assignment, with all placements if all ranks run on this machine: discovery through Spark takes a second."""
        if not self._is_local:
            yield self._assignment
            return
        with server.local_rendezvous(self._workers) as placements:
            yield dataclasses.replace(self._assignment, placements=tuple(placements))

    def _failures_of_silent_ranks(self, failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
        """Failures of the ranks that were running and left no report."""
        reported = {failure.rank for failure in failures}
        heartbeats = [heartbeat.read(self.attempt_dir, rank) for rank in range(self._workers) if rank not in reported]
        return tuple(
            failure_from_lost_task(
                rank=last.rank,
                host=last.host,
                log_path=str(log_path(Path(self._assignment.work_dir), last.rank)),
                last_activity=heartbeat.last_activity(self.attempt_dir, last.rank),
            )
            for last in heartbeats
            if last is not None and not last.done
        )

    def _settled_failures(self) -> tuple[Failure, ...]:
        folder = self.attempt_dir
        deadline = time.monotonic() + _SETTLE_SECONDS
        failures = read_failures(folder)
        while len(failures) < self._workers and time.monotonic() < deadline:
            time.sleep(0.05)
            failures = read_failures(folder)
        return failures


def start(
    spark: SparkSession,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    launch: LaunchConfig,
    work_dir: Path,
    fork_server: str = "",
) -> WorkerGroup:
    """Start `function(*arguments)` on `launch.workers` ranks.

    Args:
        spark: a session with that many free task slots.
        function: called on every rank, in a new process with Horovod's environment; it calls `hvd.init()` itself.
        arguments: plain data, which is pickled.
        launch: number of workers, threads and time limits.
        work_dir: a folder that driver and nodes share; receives `logs/rank-K.log`, and for each start a folder of heartbeats and
            failure reports.
        fork_server: address of a fork server, which starts ranks faster (`pipelines.launch.workers.spawn`); empty for none.

    Raises:
        LaunchError: there are fewer task slots than workers; raised immediately.
    """
    slots.check(spark, launch.workers)
    (work_dir / "logs").mkdir(parents=True, exist_ok=True)
    payload = cloudpickle.dumps((function, arguments))
    attempt_dir = layout.new_attempt(work_dir)
    commands.prepare(attempt_dir)
    assignment = Assignment(
        payload=payload, launch=launch, work_dir=str(work_dir), attempt_dir=str(attempt_dir), fork_server=fork_server
    )
    return WorkerGroup(spark, assignment, launch.workers)


def _reason(error: Exception) -> str:
    return first_line(next((line for line in str(error).splitlines() if "[SPARK-" in line), error))
