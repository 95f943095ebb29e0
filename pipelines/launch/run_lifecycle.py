"""The run of a job from its first line to its end, whatever comes between."""

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

# The tracking thread may still be asking a dead server. Python shows, unmasked, what is logged where there is no handler at all.
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
    """Record what the block does.

    The run ends FINISHED, FAILED or KILLED as the block does. Runs that an earlier driver left behind are ended first. What the
    tracking server lacks at the end, and after an interruption the way to resume, is said on the console.

    Args:
        tracking: where to.
        run_name: for people.
        run_dir: the run's folder.
        console: is closed at the end.
        log_level: the least important log lines to keep.
        parent: the folder of the run that this one is to be shown below. The lines that the driver logs are kept there.
        patience_seconds: how long MLflow may be left out at first (`TrackedRun.hand_over`).

    Raises:
        LaunchError: the disk does not take what has to be written.
    """
    with _disk_errors_named(run_dir):
        log = log_to(run_dir, log_level) if parent is None else None
        console.say(f"run folder {paths.display(run_dir)}, logs in {paths.display(run_dir / layout.LOG_FOLDER)}")
        left_behind = orphans.mark_killed(run_dir.parent, console)
        orphans.claim(run_dir)
    try:
        with TrackedRun(tracking, run_name, run_dir, reporter=console, parent=parent, patience_seconds=patience_seconds) as run:
            run.also_end([folder for folder in left_behind if folder != run_dir])
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
    """Turns an OSError of the block into a LaunchError."""
    try:
        yield
    except OSError as error:
        remedy = "free space or permissions there, or set launch.runs_uri to another folder"
        raise LaunchError(f"{error.filename or run_dir}: {error.strerror or error}; {remedy}") from error


def _say_how_to_resume(status: Status, run_dir: Path, console: TrainingConsole) -> None:
    if status == "KILLED" or (status == "FAILED" and store.available(run_dir)):
        console.say(orphans.how_to_resume(run_dir))


def log_to(run_dir: Path, level: LogLevel) -> logging.Handler:
    """Keep what this process logs in the run folder, until the handler is removed."""
    # A full disk would otherwise fill the screen.
    logging.raiseExceptions = False
    file = writeback.stage_of(run_dir).file(run_dir / layout.LOG_FOLDER / "driver.log")
    return logs.configure(open(file, "a", encoding="utf-8", opener=atomic.owner_only), "driver", level)


def _keep_log(run: TrackedRun, run_dir: Path) -> None:
    """One log of driver and ranks, as an artifact."""
    folder = run_dir / layout.LOG_FOLDER
    try:
        writeback.stage_of(run_dir).publish()
        logs.merge(folder, run_dir / layout.MERGED_LOG)
    except OSError as error:
        run.warnings.append(f"{run_dir / layout.MERGED_LOG} could not be written ({error.strerror}); {folder} has the logs")
    else:
        run.artifact(run_dir / layout.MERGED_LOG)
