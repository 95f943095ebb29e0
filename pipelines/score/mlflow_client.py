"""Connect to MLflow's tracking server and model registry, without MLflow's messages on the console."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(tracking_uri: str, model_name: str = "") -> "MlflowClient":
    """A client of the tracking server and of the registry that holds the registered model of that name.

    On Databricks three-part names are in Unity Catalog. Otherwise the tracking server's own registry is used, unless
    MLFLOW_REGISTRY_URI names another.
    """
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Otherwise messages on the set-up of a new store and hints about other versions go to the console.
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracking_uri)
    if tracking_uri.startswith("databricks") and model_name.count(".") == 2 and "MLFLOW_REGISTRY_URI" not in os.environ:
        # Must precede the client, which keeps the registry set at its creation.
        mlflow.set_registry_uri("databricks-uc")
    return mlflow.MlflowClient()


def is_absence(error: Exception) -> bool:
    """Whether a server's error says that there is no such thing; any other error leaves that open."""
    return getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress MLflow's messages."""
    from mlflow.utils import logging_utils

    was_enabled = logging_utils.MLFLOW_LOGGING_STREAM.enabled
    logging_utils.disable_logging()
    try:
        yield
    finally:
        logging_utils.MLFLOW_LOGGING_STREAM.enabled = was_enabled
