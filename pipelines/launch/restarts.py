"""Train with restarts: start the workers, watch them, and restart them from the last checkpoint when one is lost."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pyspark.sql import SparkSession

from pipelines.config import Config
from pipelines.data.table.schema import Table
from pipelines.errors import LaunchError
from pipelines.launch import resume, slots
from pipelines.launch.health import failures
from pipelines.launch.health.watchdog import Watchdog
from pipelines.launch.train_function import work
from pipelines.launch.workers import barrier
from pipelines.launch.workers.barrier import RankError, WorkerGroup
from pipelines.track.rundir import layout
from pipelines.track.rundir.symptom import Symptom
from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import Checkpoint
from pipelines.train.result import TrainingResult

_POLL_SECONDS = 0.1


class TrainingObserver(Protocol):
    """Follows a training on the driver."""

    def poll(self) -> None:
        """Called several times a second while the workers run, and once after their end."""

    def warn(self, line: str) -> None:
        """Receives warnings, one line each."""

    def symptom(self, symptom: Symptom) -> None:
        """Receives what slows the training or has ended the ranks."""

    def restarting(self, reason: str) -> None:
        """Called before each restart with a line that says what happened and where training continues."""


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
    """Train on `launch.workers` workers and restart when a worker is lost.

    A worker is lost when its process, task or node is terminated from outside, or when it makes no progress. Training then
    restarts from the last checkpoint, at most `launch.max_restarts` times, and with fewer workers if slots are missing and
    `launch.min_workers` allows it. An exception that a worker raises ends the training.

    Args:
        spark: a session with task slots for all workers.
        config: settings of the run.
        table: the data to train on.
        run_dir: run folder.
        observer: follows the training.
        start: checkpoint to start from; None for the beginning.
        function: what each worker runs.
        fork_server: address of a fork server (`pipelines.launch.workers.spawn`), which starts the workers faster.

    Returns:
        the results of the last workers, in rank order.

    Raises:
        RankError: a worker raised, or was lost and may not be restarted.
        LaunchError: Spark could not run the workers.
    """
    restarts, allowed = 0, config.launch.max_restarts
    requested = config.launch.workers
    while True:
        arguments: tuple[Any, ...] = (config, table, str(run_dir), str(start.path) if start is not None else None)
        launch = barrier.start(spark, function, arguments, launch=config.launch, work_dir=run_dir, fork_server=fork_server)
        _watch(launch, Watchdog(config.launch, launch.attempt_dir, run_dir / layout.LOG_FOLDER), observer)
        try:
            return launch.results()
        except RankError as error:
            cause = failures.symptom(error.failures[0])
            if cause is not None:
                observer.symptom(cause)
            if not error.lost or allowed == 0:
                raise
            if restarts == allowed:
                raise LaunchError(f"{error}; launch.max_restarts={allowed} are used up") from error
            restarts += 1
            start = store.newest(run_dir, observer.warn)
            continuation = (
                f"continues from the checkpoint of {start.state.position}"
                if start
                else "starts again: there is no checkpoint yet"
            )
            line = f"restart {restarts} of {allowed}: {error}; training {continuation}"
            observer.restarting(line)
            lost = error
        config = _with_available_workers(spark, config, requested, lost)
        if config.launch.workers < requested:
            observer.warn(f"continuing with {config.launch.workers} of {requested} workers: {_why_not_more(config)}")
        if start is not None:
            for line in resume.changes(start.state, config, table.manifest.rows("train")):
                observer.warn(line)


def _with_available_workers(spark: SparkSession, config: Config, requested: int, lost: RankError) -> Config:
    """The settings with the number of workers that can run now.

    Raises:
        LaunchError: too few can; names the loss that caused it.
    """
    launch = config.launch
    try:
        workers = slots.wait_for_return(
            spark, requested, launch.min_workers, launch.start_timeout_seconds, config.training.canonical_shards
        )
    except LaunchError as error:
        raise LaunchError(f"{lost}; {error}") from lost
    return dataclasses.replace(config, launch=dataclasses.replace(launch, workers=workers))


def _why_not_more(config: Config) -> str:
    shards = config.training.canonical_shards
    return "there are no task slots for more" + (f" that divide training.canonical_shards={shards}" if shards else "")


def _watch(launch: WorkerGroup, watchdog: Watchdog, observer: TrainingObserver) -> None:
    """Follow the workers until they end, or abort them when they are stalled."""
    try:
        while not launch.wait(_POLL_SECONDS):
            observer.poll()
            report = watchdog.poll()
            for symptom in report.symptoms:
                observer.symptom(symptom)
            if report.stalled:
                launch.abort(report.stalled)
                break
    except BaseException:
        launch.cancel()
        raise
    observer.poll()
