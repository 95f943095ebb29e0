"""Provenance of a run: versions, commit, user and time of submission."""

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
        run_dir: the run's folder.
        source: the job, such as jobs/train_cnn.py.
    """
    values = {
        "convoy_version": __version__,
        "run_dir": str(run_dir),
        "mlflow.source.name": source,
        "mlflow.source.type": "JOB",
        "mlflow.user": getpass.getuser(),
    }
    for distribution in _VERSIONED:
        try:
            values[f"version.{distribution}"] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git_commit()
    if commit:
        values["mlflow.source.git.commit"] = commit
    return values


def _git_commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=paths.home(), capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def submitted_at() -> float:
    """When the job was submitted: as set by `./convoy`, else the start of spark-submit's JVM, else of this process."""
    submitted = os.environ.get("CONVOY_SUBMITTED_AT")
    if submitted:
        return float(submitted)
    if paths.on_databricks():
        # This process and its JVM belong to the cluster and are older than the job.
        return time.time()
    process = psutil.Process()
    parent = process.parent()
    if parent is not None and "java" in parent.name():
        process = parent
    return float(process.create_time())
