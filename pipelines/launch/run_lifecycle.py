"""Start and end of the run of a job, however it ends."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pipelines.config import LogLevel, TrackingConfig
from pipelines.errors import LaunchError
from pipelines.launch import orphans
from pipelines.launch.workers import scratch
from pipelines.system import atomic, paths, writeback
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir import layout, logs
from pipelines.track.tracked_run import Status, TrackedRun, status_of
from pipelines.train.checkpoint import store

# The tracking thread may still be waiting for a dead server. Without any handler Python prints its log lines, unmasked.
_SILENT = logging.NullHandler()


@contextmanager
def recorded(
    tracking: TrackingConfig,
    run_name: str,
    run_dir: Path,
    console: TrainingConsole,
    log_level: LogLevel = "INFO",
    parent: Path | None = None,
    patience_seconds: float = 0.0,
) -> Iterator[TrackedRun]:
    """Record the block as a run, which ends FINISHED, FAILED or KILLED with it.

    Runs orphaned by earlier drivers are marked as killed first. At the end the console shows what the tracking server lacks, and
    after an interruption how to resume.

    Args:
        tracking: server and experiment.
        run_name: name of a new run.
        run_dir: run folder.
        console: closed at the end.
        log_level: lowest level of the log files.
        parent: run folder of the parent run, which also has the driver's log.
        patience_seconds: delay before MLflow is imported (`TrackedRun`).

    Raises:
        LaunchError: the disk is full or not writable.
    """
    with _disk_errors_named(run_dir):
        log = log_to(run_dir, log_level) if parent is None else None
        console.say(f"run folder {paths.display(run_dir)} (logs in {layout.LOG_FOLDER}/)")
        orphaned = orphans.mark_killed(run_dir.parent, console)
        orphans.claim(run_dir)
    try:
        with TrackedRun(tracking, run_name, run_dir, reporter=console, parent=parent, patience_seconds=patience_seconds) as run:
            run.also_end([folder for folder in orphaned if folder != run_dir])
            try:
                with closing(console), _disk_errors_named(run_dir):
                    yield run
            except BaseException as error:
                _say_how_to_resume(status_of(error), run_dir, console)
                raise
            finally:
                _keep_log(run, run_dir)
    finally:
        with suppress(OSError):
            orphans.release(run_dir)
        if log is not None:
            logging.getLogger().addHandler(_SILENT)
            logging.getLogger().removeHandler(log)
        scratch.remove(run_dir)


@contextmanager
def _disk_errors_named(run_dir: Path) -> Iterator[None]:
    """Converts an OSError in the block to a LaunchError."""
    try:
        yield
    except OSError as error:
        remedy = "free space or permissions there, or set launch.runs_uri to another folder"
        raise LaunchError(f"{error.filename or run_dir}: {error.strerror or error}; {remedy}") from error


def _say_how_to_resume(status: Status, run_dir: Path, console: TrainingConsole) -> None:
    if status == "KILLED" or (status == "FAILED" and store.available(run_dir)):
        console.say(orphans.how_to_resume(run_dir))


def log_to(run_dir: Path, level: LogLevel) -> logging.Handler:
    """Log this process to the run folder until the handler is removed."""
    # Otherwise a full disk floods the console.
    logging.raiseExceptions = False
    file = writeback.stage_of(run_dir).file(run_dir / layout.LOG_FOLDER / "driver.log")
    return logs.configure(open(file, "a", encoding="utf-8", opener=atomic.owner_only), "driver", level)


def _keep_log(run: TrackedRun, run_dir: Path) -> None:
    """Merge the logs of driver and ranks and log them as an artifact."""
    folder = run_dir / layout.LOG_FOLDER
    try:
        writeback.stage_of(run_dir).publish()
        logs.merge(folder, run_dir / layout.MERGED_LOG)
    except OSError as error:
        run.warnings.append(f"{run_dir / layout.MERGED_LOG} could not be written ({error.strerror}); the logs are in {folder}")
    else:
        run.artifact(run_dir / layout.MERGED_LOG)
