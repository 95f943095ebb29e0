"""The run of a job from its first line to its end, whatever comes between."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines import cli, paths, rundir
from pipelines.config import TrackingConfig
from pipelines.errors import ConvoyError, LaunchError
from pipelines.launch import leftovers
from pipelines.launch.console import TrainingConsole
from pipelines.secrets import mask
from pipelines.track.run import Status, TrackedRun

_ERROR_LENGTH = 500


@contextmanager
def recorded(
    tracking: TrackingConfig, run_name: str, run_dir: Path, console: TrainingConsole, run_id: str = ""
) -> Iterator[TrackedRun]:
    """Record what the block does.

    The run ends FINISHED, FAILED or KILLED as the block does. Runs that an earlier driver left behind are ended first. What the
    tracking server lacks at the end, and after an interruption the way to resume, is said on the console.

    Args:
        tracking: where to.
        run_name: for people.
        run_dir: the run's folder.
        console: is closed at the end.
        run_id: an MLflow run to go on with.

    Raises:
        LaunchError: the disk does not take what has to be written.
    """
    status: Status = "FAILED"
    try:
        log_to(run_dir)
        console.say(f"run folder {paths.display(run_dir)}, logs in {paths.display(run_dir / rundir.LOG_FOLDER)}")
        left_behind = leftovers.bury(run_dir.parent, console.say)
        leftovers.claim(run_dir)
    except OSError as error:
        raise _unwritable(error, run_dir) from error
    run = TrackedRun(tracking, run_name, run_dir, run_id)
    run.also_end(left_behind)
    try:
        yield run
        status = "FINISHED"
    except (cli.Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    except ConvoyError as error:
        run.tags({"error": str(error)[:_ERROR_LENGTH]})
        raise
    except OSError as error:
        unwritable = _unwritable(error, run_dir)
        run.tags({"error": str(unwritable)[:_ERROR_LENGTH]})
        raise unwritable from error
    finally:
        console.close()
        if status == "KILLED":
            console.say(leftovers.how_to_resume(run_dir))
        run.finish(status)
        with suppress(OSError):
            leftovers.release(run_dir)
        for warning in run.warnings:
            console.say(f"warning: {warning}")


def log_to(run_dir: Path) -> None:
    """Keep what libraries log in the run folder, without credentials."""
    # A full disk would otherwise fill the screen.
    logging.raiseExceptions = False
    handler = logging.FileHandler(run_dir / rundir.LOG_FOLDER / "driver.log", encoding="utf-8")
    handler.setFormatter(_Masked("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def _unwritable(error: OSError, run_dir: Path) -> LaunchError:
    place = error.filename or run_dir
    remedy = "free space or permissions there, or set launch.runs_uri to another folder"
    return LaunchError(f"{place}: {error.strerror or error}; {remedy}")
