"""Runs whose driver died without a word, as by SIGKILL: found by the next start, told, and marked KILLED.

A driver leaves its process id and start time in its run folder and takes them away at its end. Where they still stand and the
process is gone, nobody has ended the run.
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
# Start times are told in hundredths of a second.
_SAME_START_SECONDS = 0.1


@dataclass(frozen=True)
class Driver:
    """A process that is, or was, the driver of a run."""

    pid: int
    started: float
    """Seconds since the Unix epoch."""
    host: str

    def is_gone(self) -> bool:
        """True when the process is certainly no more; one of another host may live."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return not (alive and abs(process.create_time() - self.started) < _SAME_START_SECONDS)
        except psutil.NoSuchProcess:
            return True


def claim(run_dir: Path) -> None:
    """Say that this process is the driver of a run."""
    driver = {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}
    atomic.write(run_dir / _FILE, json.dumps(driver) + "\n")


def release(run_dir: Path) -> None:
    """Say that the run has ended in order."""
    (run_dir / _FILE).unlink(missing_ok=True)


def mark_killed(runs: Path, reporter: Reporter) -> list[Path]:
    """Find runs whose driver is gone, say so with the way to resume, and write their end into their journals.

    Args:
        runs: the folder that holds the folders of runs.
        reporter: receives two lines for each.

    Returns:
        their folders, for a tracked run to tell MLflow.
    """
    found = []
    for file in sorted([*runs.glob(f"*/{_FILE}"), *runs.glob(f"*/{layout.TRIALS_FOLDER}/*/{_FILE}")]):
        driver = _read(file)
        if driver is None or not driver.is_gone():
            continue
        run_dir = file.parent
        journal = Journal(run_dir)
        if journal.entries() and not journal.ended:
            journal.append("tags", {"error": f"the driver (process {driver.pid}) died without ending the run"})
            journal.append("status", {"status": "KILLED"}, at=_last_sign_of_life(run_dir))
            found.append(run_dir)
            if run_dir.parent.name != layout.TRIALS_FOLDER:
                reporter.say(f"found {paths.display(run_dir)}: its driver (process {driver.pid}) died; the run is now KILLED")
                reporter.say(f"  {how_to_resume(run_dir)}")
            with suppress(OSError):
                writeback.stage_of(run_dir).publish()
        scratch.remove(run_dir)
        release(run_dir)
    return found


def how_to_resume(run_dir: Path) -> str:
    """The last checkpoint and the command that goes on from it."""
    record = layout.read_record(run_dir)
    name = record.run_id if record is not None else paths.display(run_dir)
    if (run_dir / layout.SWEEP_FILE).exists():
        return f"go on with ./convoy sweep --resume {name}"
    last = store.newest(run_dir)
    if last is None:
        return "it has no checkpoint to resume from"
    return f"last checkpoint {last.state.position} ({paths.display(last.path)}); go on with ./convoy train --resume {name}"


def refuse_if_running(run_dir: Path) -> None:
    """Raises LaunchError when the driver of a run is still at it on this machine."""
    driver = _read(run_dir / _FILE)
    if driver is not None and driver.host == socket.gethostname() and not driver.is_gone():
        raise LaunchError(f"{paths.display(run_dir)}: process {driver.pid} is still training it; wait for its end, or end it")


def _read(file: Path) -> Driver | None:
    try:
        return Driver(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _last_sign_of_life(run_dir: Path) -> float:
    times = [path.stat().st_mtime for folder in ("spool", "tracking") for path in (run_dir / folder).glob("*.jsonl")]
    return max(times, default=time.time())
