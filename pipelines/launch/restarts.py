"""Train until it is done: start the workers, watch them, and start them again from the last checkpoint when one is lost."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pyspark.sql import SparkSession

from pipelines.config import Config
from pipelines.data.table.schema import Table
from pipelines.errors import LaunchError
from pipelines.launch import resume, slots
from pipelines.launch.health.watchdog import Watchdog
from pipelines.launch.train_function import work
from pipelines.launch.workers import barrier
from pipelines.launch.workers.barrier import RankError, WorkerGroup
from pipelines.track.rundir import layout
from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import Checkpoint
from pipelines.train.result import TrainingResult

_POLL_SECONDS = 0.1


class TrainingObserver(Protocol):
    """Follows a training on the driver."""

    def poll(self) -> None:
        """Called several times a second while the workers run, and once when they have ended."""

    def warn(self, line: str) -> None:
        """Receives warnings, one line each."""

    def restarting(self, reason: str) -> None:
        """Called before each restart with a line that says what happened and where training goes on."""


def train(
    spark: SparkSession,
    config: Config,
    table: Table,
    run_dir: Path,
    observer: TrainingObserver,
    *,
    start: Checkpoint | None = None,
    function: Callable[..., TrainingResult] = work,
    fork_server: str = "",
) -> list[TrainingResult]:
    """Train on `launch.workers` workers, whatever becomes of single ones.

    A worker is lost when its process, its task or its node ends from outside, or when it makes no progress. Then training starts
    again from the last checkpoint, at most `launch.max_restarts` times, with fewer workers where their slots are gone and
    `launch.min_workers` allows it. An error that a worker raises ends it.

    Args:
        spark: a session with task slots for all workers.
        config: the settings of the run.
        table: what to train on.
        run_dir: the run's folder.
        observer: follows it.
        start: where to go on from; None for the beginning.
        function: what each worker runs.
        fork_server: the address of one (`pipelines.launch.workers.spawn`), which starts the workers sooner.

    Returns:
        the results in rank order, of the workers that there were in the end.

    Raises:
        RankError: a worker failed for good.
        LaunchError: Spark could not run them.
    """
    restarts, allowed = 0, config.launch.max_restarts
    wanted = config.launch.workers
    while True:
        arguments: tuple[Any, ...] = (config, table, str(run_dir), str(start.path) if start is not None else None)
        launch = barrier.start(spark, function, arguments, launch=config.launch, work_dir=run_dir, fork_server=fork_server)
        _watch(launch, Watchdog(config.launch, launch.attempt_dir, run_dir / layout.LOG_FOLDER), observer)
        try:
            return launch.results()
        except RankError as error:
            if not error.lost or allowed == 0:
                raise
            if restarts == allowed:
                raise LaunchError(f"{error}; launch.max_restarts={allowed} are used up") from error
            restarts += 1
            start = store.newest(run_dir, observer.warn)
            place = (
                f"goes on from the checkpoint of {start.state.position}" if start else "begins again: there is no checkpoint yet"
            )
            line = f"restart {restarts} of {allowed}: {error}; training {place}"
            observer.restarting(line)
            lost = error
        config = _on_what_is_left(spark, config, wanted, lost)
        if config.launch.workers < wanted:
            observer.warn(f"{config.launch.workers} of {wanted} workers go on: there are no task slots for more")
        if start is not None:
            for line in resume.changes(start.state, config, table.manifest.rows("train")):
                observer.warn(line)


def _on_what_is_left(spark: SparkSession, config: Config, wanted: int, lost: RankError) -> Config:
    """The settings with as many workers as can run now.

    Raises:
        LaunchError: too few; it says which loss made them so.
    """
    launch = config.launch
    try:
        workers = slots.wait_for_return(spark, wanted, launch.min_workers, launch.start_timeout_seconds)
    except LaunchError as error:
        raise LaunchError(f"{lost}; {error}") from lost
    return dataclasses.replace(config, launch=dataclasses.replace(launch, workers=workers))


def _watch(launch: WorkerGroup, watchdog: Watchdog, observer: TrainingObserver) -> None:
    """Follow the workers to their end, or bring it about when they are stalled."""
    try:
        while not launch.wait(_POLL_SECONDS):
            observer.poll()
            report = watchdog.poll()
            for warning in report.warnings:
                observer.warn(warning)
            if report.stalled:
                launch.abort(report.stalled)
                break
    except BaseException:
        launch.cancel()
        raise
    observer.poll()
