"""Where a run comes from: versions, commit, user, and when the job was submitted."""

import getpass
import importlib.metadata
import os
import subprocess
import time
from pathlib import Path

import psutil

from pipelines import __version__
from pipelines.system import paths

_VERSIONED = ("tensorflow", "tensorflow-cpu", "keras", "horovod", "petastorm", "pyspark", "pyarrow", "numpy", "mlflow")


def tags(run_dir: Path, source: str) -> dict[str, str]:
    """Tags of a run.

    Args:
        run_dir: its folder.
        source: the job that records it, such as jobs/train_cnn.py.
    """
    found = {
        "convoy_version": __version__,
        "run_dir": str(run_dir),
        "mlflow.source.name": source,
        "mlflow.source.type": "JOB",
        "mlflow.user": getpass.getuser(),
    }
    for distribution in _VERSIONED:
        try:
            found[f"version.{distribution}"] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git_commit()
    if commit:
        found["mlflow.source.git.commit"] = commit
    return found


def _git_commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=paths.home(), capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def submitted_at() -> float:
    """When the job was submitted: what the front door says, else the start of spark-submit's JVM, else of this process."""
    told = os.environ.get("CONVOY_SUBMITTED_AT")
    if told:
        return float(told)
    if paths.on_databricks():
        # This process and its JVM are the cluster's, and were there before the job.
        return time.time()
    process = psutil.Process()
    parent = process.parent()
    if parent is not None and "java" in parent.name():
        process = parent
    return float(process.create_time())
