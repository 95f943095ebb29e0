"""The parent of a run on a tracking server: a trial's is its sweep."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ConvoyError
from pipelines.system import paths
from pipelines.system.secrets import mask_value
from pipelines.track.mlflow.journal import Journal
from pipelines.track.mlflow.server_compat import is_absence
from pipelines.track.rundir import layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"


def tags(journal: Journal, tracking_uri: str) -> dict[str, str]:
    """Tags that make a run the child of its parent; empty for a run without one.

    Raises:
        ConvoyError: the server does not have the parent yet, or the journal names a folder that is not above its own.
    """
    values = journal.opening.values
    if "parent" not in values:
        return {}
    run_dir = journal.run_dir.absolute()
    folder = Path(os.path.normpath(run_dir / values["parent"]))
    if folder not in run_dir.parents:
        raise ConvoyError(f"{run_dir}: its record names {folder} as its parent, but is not below it")
    record = layout.read_record(folder)
    if record is None or record.tracking_uri != mask_value(tracking_uri):
        raise ConvoyError(f"the run of {paths.display(folder)} must be created first")
    return {PARENT_TAG: record.run_id}


def check(client: "MlflowClient", run_tags: "Mapping[str, str]") -> None:
    """Raises ConvoyError if the server has lost the parent that `tags` names."""
    if PARENT_TAG not in run_tags:
        return
    try:
        client.get_run(run_tags[PARENT_TAG])
    except Exception as error:
        if not is_absence(error):
            raise
        raise ConvoyError(f"MLflow has lost the parent's run {run_tags[PARENT_TAG]}; replay the folder of the parent") from error
