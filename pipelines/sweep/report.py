"""Record the results of a sweep in its run: tables, figure, the best configuration, and the best trial's test accuracy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from pipelines.config import loader
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.errors import ConvoyError
from pipelines.score import model_info
from pipelines.score.evaluate.evaluation import evaluate
from pipelines.sweep import results
from pipelines.sweep.plan import Sweep
from pipelines.sweep.search import FinishedTrial, Study
from pipelines.sweep.space import Choices, Range, short_names
from pipelines.system import atomic, paths
from pipelines.system.reporter import NullReporter, Reporter
from pipelines.track.figures import parallel_coordinates
from pipelines.track.figures.style import Drawing
from pipelines.track.mlflow.journal import EXPERIMENT_ID, RUN_ID, Journal
from pipelines.track.mlflow.replay import replay
from pipelines.track.run_page import DESCRIPTION_TAG
from pipelines.track.rundir import layout
from pipelines.track.tracked_run import TrackedRun

BEST_FILE = "best.yml"
_MAX_ROWS = 20
_FIGURE = "parallel_coordinates"


def counts(ended: Sequence[FinishedTrial]) -> dict[str, int]:
    return {state: sum(trial.outcome.state == state for trial in ended) for state in ("finished", "pruned", "failed")}


def tables(run: TrackedRun, sweep: Sweep, ended: Sequence[FinishedTrial], folder: Path) -> None:
    """Write tables of the trials so far to the sweep's folder and its run."""
    rows = results.rows(sweep, ended)
    _keep(run, folder, "results.csv", results.as_csv(rows))
    _keep(run, folder, "results.md", results.as_markdown(rows, sweep.metric) + "\n")
    if sweep.config.purpose == "compare" or len(results.comparison(sweep, ended)) < len(ended):
        by_configuration = results.comparison(sweep, ended)
        _keep(run, folder, "comparison.csv", results.as_csv(by_configuration))
        _keep(run, folder, "comparison.md", results.as_markdown(by_configuration, sweep.metric) + "\n")


def test_best(spark: SparkSession, sweep: Sweep, study: Study, best: FinishedTrial, reporter: Reporter) -> None:
    """Evaluate the best trial's model on the test rows, which no trial has seen, and log metrics and model to the trial's run.

    Raises:
        ConvoyError: the table or the model has changed.
    """
    config, run_dir = sweep.configuration(best.assignment), Path(best.outcome.run_dir)
    data, _ = table.open_or_build(spark, config, resolve_source(config.data, NullReporter()), reporter)
    model = model_info.read(run_dir / layout.MODEL_FOLDER, str(run_dir))
    result = evaluate(spark, [model], data, ("test",)).results[0]
    metrics = {"test/loss": result.loss} | {f"test/{name}": value for name, value in result.metrics.items()}
    study.amend(best.number, metrics=dict(best.outcome.metrics) | metrics)
    with TrackedRun(config.tracking, "", run_dir) as run:
        run.tags({"best": "true"})
        run.metrics(metrics, step=best.outcome.epochs)
        run.model(run_dir / layout.MODEL_FOLDER)


def outcome(run: TrackedRun, sweep: Sweep, ended: Sequence[FinishedTrial], best: FinishedTrial | None, folder: Path) -> None:
    """Record the final tables, metrics, figure and best configuration."""
    tables(run, sweep, ended, folder)
    run.metrics({f"trials/{state}": number for state, number in counts(ended).items()}, step=0)
    if best is not None:
        assert best.outcome.value is not None
        config = loader.dump_masked(sweep.configuration(best.assignment))
        command = f"./convoy train --config {paths.display(folder / BEST_FILE)}"
        _keep(run, folder, BEST_FILE, results.header(sweep, best, command) + config)
        run.metrics({f"best/{name}": value for name, value in best.outcome.metrics.items()}, step=best.outcome.epochs)
    if ended:
        run.figure(lambda: _figure(sweep, ended), _FIGURE)
        run.tags({DESCRIPTION_TAG: _description(sweep, ended, best)})


def described(sweep: Sweep, best: FinishedTrial, folder: Path) -> dict[str, Any]:
    """The best trial, for the summary."""
    return {
        "trial": best.number,
        "settings": dict(best.assignment),
        "value": best.outcome.value,
        "metrics": dict(best.outcome.metrics),
        "run_id": best.outcome.run_id,
        "model_uri": Journal(Path(best.outcome.run_dir)).accepted.model_uri,
        "config": str(folder / BEST_FILE),
    }


def complete(folder: Path, ended: Sequence[FinishedTrial], reporter: Reporter) -> None:
    """Send pending entries of the trials' runs to MLflow, which may have received the sweep's run too late for them."""
    pending = [Path(trial.outcome.run_dir) for trial in ended if Path(trial.outcome.run_dir, "tracking").is_dir()]
    pending = [run_dir for run_dir in pending if Journal(run_dir).pending()]
    try:
        for run_dir in pending:
            replay(run_dir)
    except ConvoyError as error:
        reporter.warn(
            f"MLflow lacks entries of {len(pending)} trials ({error}); to complete them: ./convoy replay {paths.display(folder)}"
        )


def _keep(run: TrackedRun, folder: Path, name: str, content: str) -> None:
    atomic.write(folder / name, content, private=True)
    run.text(content, name)


def _figure(sweep: Sweep, ended: Sequence[FinishedTrial]) -> Drawing:
    names = short_names([axis.name for axis in sweep.axes])
    rows = results.rows(sweep, ended)
    for row, trial in zip(rows, results.ranked(sweep, ended), strict=True):
        # A pruned trial is not comparable: it was trained for fewer epochs.
        row[sweep.metric] = trial.outcome.value if trial.outcome.state == "finished" else None
    return parallel_coordinates.draw(
        rows,
        list(names.values()),
        sweep.metric,
        minimised=sweep.minimised,
        texts={names[axis.name]: [option.label for option in axis.options] for axis in sweep.axes if isinstance(axis, Choices)},
        log=[names[axis.name] for axis in sweep.axes if isinstance(axis, Range) and axis.log],
        title=sweep.config.name,
    )


def _description(sweep: Sweep, ended: Sequence[FinishedTrial], best: FinishedTrial | None) -> str:
    number = counts(ended)
    parts = [
        f"Sweep `{sweep.config.name}` ({sweep.config.search}): {number['finished']} trials finished, "
        f"{number['pruned']} were pruned, {number['failed']} failed. Each trial is a run below this one."
    ]
    if best is not None:
        parts.append(
            f"Trial {best.number} is the best by {sweep.metric}. Its configuration: [{BEST_FILE}]({_artifact(BEST_FILE)}). "
            "Only this trial was evaluated on the test rows, after it had been chosen."
        )
        rows = results.rows(sweep, ended)
    elif sweep.config.purpose == "choose":
        parts.append("There is no best configuration: each has a trial that was pruned or failed.")
        rows = results.rows(sweep, ended)
    else:
        parts.append("No trial was selected, so each test accuracy is unbiased.")
        rows = results.comparison(sweep, ended)
    parts.append(results.as_markdown(rows[:_MAX_ROWS], sweep.metric))
    parts.append(f"{parallel_coordinates.QUESTION} [{_FIGURE}]({_artifact(f'figures/{_FIGURE}.png')})")
    return "\n\n".join(parts)


def _artifact(path: str) -> str:
    return f"#/experiments/{EXPERIMENT_ID}/runs/{RUN_ID}/artifacts/{path}"
