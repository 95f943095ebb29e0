"""Recent runs as a table for the terminal."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import ConvoyError
from pipelines.system.secrets import first_line, mask_value
from pipelines.track.mlflow import server_compat
from pipelines.track.rundir import logs

_COLUMNS = ("started", "name", "test result", "minutes", "workers", "rows/s", "status", "run id")
_RIGHT = ("test result", "minutes", "workers", "rows/s")
MAX_COUNT = 50_000
"""MLflow returns no more at once."""


def find(tracking_uri: str, experiment: str, count: int) -> list[dict[str, str]]:
    """One mapping per run from column to text, newest first. Empty if there is no such experiment.

    Raises:
        ConvoyError: the server did not answer.
    """
    server_compat.answer_soon()
    import mlflow

    logs.silence_mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri)
        with logs.kept():
            entity = client.get_experiment_by_name(experiment)
        if entity is None:
            return []
        runs = client.search_runs([entity.experiment_id], max_results=count, order_by=["attributes.start_time DESC"])
    except Exception as error:
        problem = f"the runs of experiment {experiment} could not be listed ({first_line(error)})"
        raise ConvoyError(f"MLflow at {mask_value(tracking_uri)}: {problem}; check MLFLOW_TRACKING_URI and the server") from error
    return [_row(run) for run in runs]


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Lines of a table with columns as wide as their content."""
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in _COLUMNS}
    lines = [{column: column for column in _COLUMNS}, *rows]
    return [
        "  ".join(
            f"{row[column]:>{widths[column]}}" if column in _RIGHT else f"{row[column]:{widths[column]}}" for column in _COLUMNS
        )
        for row in lines
    ]


def _row(run: Any) -> dict[str, str]:
    metrics, info = run.data.metrics, run.info
    speed = metrics.get("rows_per_second")
    end = info.end_time or (time.time() * 1000 if info.status == "RUNNING" else info.start_time)
    return {
        "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(info.start_time / 1000)),
        "name": info.run_name or "",
        "test result": _result(metrics),
        "minutes": f"{(end - info.start_time) / 60000:.1f}",
        "workers": run.data.params.get("launch.workers", ""),
        "rows/s": f"{speed:,.0f}" if speed is not None else "",
        "status": info.status.lower(),
        "run id": info.run_id,
    }


def _result(metrics: Mapping[str, float]) -> str:
    """The metric of the run's task, on the test rows; empty before the test."""
    if "test/accuracy" in metrics:
        return f"accuracy {100 * metrics['test/accuracy']:.2f} %"
    return f"rmse {metrics['test/rmse']:.5g}" if "test/rmse" in metrics else ""
