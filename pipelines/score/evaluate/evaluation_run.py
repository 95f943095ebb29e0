"""Evaluate a model and record the result as an MLflow run below the run that trained it."""

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from pipelines import tasks
from pipelines.config import TrackingConfig
from pipelines.data.table.schema import Split, Table
from pipelines.score import mlflow_client
from pipelines.score.evaluate.dataset import Selection
from pipelines.score.evaluate.evaluation import Comparison, evaluate
from pipelines.score.model_info import ModelInfo
from pipelines.system import paths
from pipelines.system.reporter import Reporter
from pipelines.system.secrets import first_line
from pipelines.track.figures import catalog
from pipelines.track.mlflow.follower import default_tracking_uri
from pipelines.track.mlflow.parent import PARENT_TAG
from pipelines.track.run_page import DESCRIPTION_TAG
from pipelines.track.rundir import layout
from pipelines.track.tracked_run import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities import Run


def run_evaluation(spark: SparkSession, selection: Selection, info: ModelInfo, reporter: Reporter) -> dict[str, Any]:
    """Evaluate a model and record the run.

    Args:
        spark: runs the evaluation.
        selection: the rows.
        info: the model.
        reporter: receives progress and warnings.

    Returns:
        the summary, plain data ready for JSON.

    Raises:
        ConvoyError: the evaluation failed; its run remains with status FAILED.
    """
    started = time.monotonic()
    config = selection.config
    parent = find_parent(info, default_tracking_uri(config.tracking), reporter)
    name = config.tracking.run_name or f"evaluate-{selection.dataset}"
    run_dir = layout.make(paths.to_python(config.launch.runs_uri), name)
    with TrackedRun(_in_experiment_of(config.tracking, parent), name, run_dir, reporter=reporter) as run:
        run.tags(_tags(info, selection.splits) | ({PARENT_TAG: parent.info.run_id} if parent is not None else {}))
        table = selection.open(spark, reporter)
        run.dataset(table)
        rows = sum(table.manifest.rows(split) for split in selection.splits)
        reporter.say(f"evaluate: {info.uri} on {rows:,} rows ({', '.join(selection.splits)}) of table {table.uri}")
        evaluation_started = time.monotonic()
        comparison = evaluate(spark, [info], table, selection.splits, keep_own_splits=True)
        seconds = time.monotonic() - evaluation_started
        for note in comparison.notes:
            reporter.say(note)
        _record(run, comparison, table)
    result = comparison.results[0]
    return {
        "run_id": run.run_id,
        "parent_run_id": parent.info.run_id if parent is not None else "",
        "run_dir": str(run_dir),
        "tracking_uri": run.tracking_uri,
        "model_uri": info.uri,
        "model_version": info.version,
        "dataset": table.manifest.dataset,
        "note": table.manifest.note,
        "table": table.uri,
        "table_digest": table.manifest.digest,
        "rows": {split: table.manifest.rows(split) for split in comparison.splits},
        "left_out_rows": comparison.left_out,
        "notes": list(comparison.notes),
        "test": {"loss": result.loss, **result.metrics, "rows": result.rows},
        "rows_per_second": round(result.rows / seconds),
        "seconds": {"evaluate": round(seconds, 2), "total": round(time.monotonic() - started, 2)},
    }


def find_parent(info: ModelInfo, tracking_uri: str, reporter: Reporter) -> "Run | None":
    """The run that logged a model, or None if the tracking server no longer has it, or does not say, which is reported."""
    if not info.run_id:
        return None
    try:
        run = mlflow_client.connect(tracking_uri).get_run(info.run_id)
    except Exception as error:
        if not mlflow_client.is_absence(error):
            problem = f"MLflow did not say which run logged it ({first_line(error)})"
            reporter.warn(f"{info.uri}: {problem}; the evaluation is recorded, but not as a child of that run")
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _record(run: TrackedRun, comparison: Comparison, table: Table) -> None:
    result, manifest, splits = comparison.results[0], table.manifest, comparison.splits
    # Several splits together are recorded as a test set.
    prefix = splits[0] if len(splits) == 1 else "test"
    values = {"loss": result.loss, **result.metrics}
    run.metrics({f"{prefix}/{name}": value for name, value in values.items()}, step=0)
    metric = tasks.of(manifest.spec.task).metrics[0]
    title = metric.label[0].upper() + metric.label[1:]
    rows = f"{result.rows:,} rows ({', '.join(splits)}) of **{manifest.dataset}**"
    notes = "".join(f" {note}." for note in comparison.notes)
    run.tags(
        {DESCRIPTION_TAG: f"{title} **{metric.shown(result.metrics[metric.name])}** on {rows}, loss {result.loss:.4f}.{notes}"}
    )
    figures = catalog.of_predictions(lambda: comparison.predictions, manifest)
    for name, draw in figures.items():
        run.figure(draw, name)


def _tags(info: ModelInfo, splits: Sequence[Split]) -> dict[str, str]:
    tags = {"kind": "evaluation", "model_uri": info.uri, "model_version": info.version, "splits": ",".join(splits)}
    return {key: value for key, value in tags.items() if value}


def _in_experiment_of(tracking: TrackingConfig, parent: "Run | None") -> TrackingConfig:
    """The tracking settings with the parent's experiment, because MLflow nests a run only within one experiment."""
    if parent is None:
        return tracking
    client = mlflow_client.connect(default_tracking_uri(tracking))
    return dataclasses.replace(tracking, experiment=client.get_experiment(parent.info.experiment_id).name)
