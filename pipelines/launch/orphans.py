"""Orphaned runs: those whose driver died without ending them, as by SIGKILL. The next driver marks them KILLED.

A driver writes its process id and start time to the run folder and removes them at the end. A run is orphaned if they are still
there but the process is not.
"""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.errors import LaunchError
from pipelines.launch.workers import scratch
from pipelines.system import atomic, paths, writeback
from pipelines.system.reporter import Reporter
from pipelines.track.mlflow.journal import Journal
from pipelines.track.rundir import layout
from pipelines.train.checkpoint import store

_FILE = "driver.json"
# The resolution of start times is a hundredth of a second.
_SAME_START_SECONDS = 0.1


@dataclass(frozen=True)
class Driver:
    """The process that is or was the driver of a run."""

    pid: int
    started: float
    """Seconds since the Unix epoch."""
    host: str

    def is_gone(self) -> bool:
        """Whether the process has certainly ended. One on another host may be alive."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return not (alive and abs(process.create_time() - self.started) < _SAME_START_SECONDS)
        except psutil.NoSuchProcess:
            return True


def claim(run_dir: Path) -> None:
    """Register this process as the driver of a run."""
    driver = {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}
    atomic.write(run_dir / _FILE, json.dumps(driver) + "\n")


def release(run_dir: Path) -> None:
    """Unregister the driver of a run at its regular end."""
    (run_dir / _FILE).unlink(missing_ok=True)


def mark_killed(runs: Path, reporter: Reporter) -> list[Path]:
    """Find orphaned runs, report them with the command that resumes them, and write their end to their journals.

    Args:
        runs: parent of the run folders.
        reporter: receives two lines for each.

    Returns:
        the folders of the runs, whose journals must be sent to MLflow (`TrackedRun.also_end`).
    """
    orphaned = []
    for file in sorted([*runs.glob(f"*/{_FILE}"), *runs.glob(f"*/{layout.TRIALS_FOLDER}/*/{_FILE}")]):
        driver = _read(file)
        if driver is None or not driver.is_gone():
            continue
        run_dir = file.parent
        journal = Journal(run_dir)
        if journal.entries() and not journal.ended:
            journal.append("tags", {"error": f"the driver (process {driver.pid}) died without ending the run"})
            journal.append("status", {"status": "KILLED"}, at=_last_event(run_dir))
            orphaned.append(run_dir)
            if run_dir.parent.name != layout.TRIALS_FOLDER:
                reporter.say(f"found {paths.display(run_dir)}: its driver (process {driver.pid}) died; the run is now KILLED")
                reporter.say(f"  {how_to_resume(run_dir)}")
            with suppress(OSError):
                writeback.stage_of(run_dir).publish()
        scratch.remove(run_dir)
        release(run_dir)
    return orphaned


def how_to_resume(run_dir: Path) -> str:
    """The last checkpoint and the command that resumes from it."""
    record = layout.read_record(run_dir)
    name = record.run_id if record is not None else paths.display(run_dir)
    if (run_dir / layout.SWEEP_FILE).exists():
        return f"resume with ./convoy sweep --resume {name}"
    last = store.newest(run_dir)
    if last is None:
        return "it has no checkpoint to resume from"
    return f"last checkpoint {last.state.position} ({paths.display(last.path)}); resume with ./convoy train --resume {name}"


def refuse_if_running(run_dir: Path) -> None:
    """Raises LaunchError if the driver of a run is still running on this machine."""
    driver = _read(run_dir / _FILE)
    if driver is not None and driver.host == socket.gethostname() and not driver.is_gone():
        raise LaunchError(f"{paths.display(run_dir)}: process {driver.pid} is still training it; wait for its end, or kill it")


def _read(file: Path) -> Driver | None:
    try:
        return Driver(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _last_event(run_dir: Path) -> float:
    times = [path.stat().st_mtime for folder in ("spool", "tracking") for path in (run_dir / folder).glob("*.jsonl")]
    return max(times, default=time.time())
