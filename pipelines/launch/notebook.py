"""Training in notebooks: settings from widgets, and one call that trains and returns the finished run."""

import contextlib
import dataclasses
import io
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines import tasks
from pipelines.config import Config, loader
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.stream.sharding import RowRange
from pipelines.data.table.schema import Split, Table
from pipelines.errors import ConfigError
from pipelines.launch import session
from pipelines.launch.training import run_training
from pipelines.system import paths
from pipelines.system.reporter import PrintReporter
from pipelines.track import finished_run
from pipelines.track.console.console import TrainingConsole
from pipelines.track.finished_run import FinishedRun

if TYPE_CHECKING:
    from pipelines.data.stream.reader import Block

_APP = "convoy-lab"
_CLUSTER_STORAGE = "dbfs:/convoy"


def configuration(file: str, settings: Mapping[str, str | float], storage: str = "") -> Config:
    """The configuration of a lab: a file, changed by widgets, with a notebook's storage and experiment.

    Runs are recorded in the experiment `convoy-labs`, on Databricks in the workspace.

    Args:
        file: such as `conf/mlp.yml`. Searched from the working directory upwards, because a notebook's is `notebooks`.
        settings: values by `section.key`, strings as YAML; an empty string keeps the value in the file.
        storage: folder for tables and runs; by default the home folder, on Databricks `dbfs:/convoy`.

    Raises:
        ConfigError: a setting is invalid, or the file does not exist.
    """
    overrides = platform_settings(storage, "convoy-labs")
    overrides |= {key: str(value) for key, value in settings.items() if value != ""}
    return loader.load(_find(file), [f"{key}={value}" for key, value in overrides.items()])


def platform_settings(storage: str = "", experiment: str = "convoy") -> dict[str, str]:
    """Where a notebook keeps tables and runs, and records these, as settings by `section.key`.

    Args:
        storage: folder for tables and runs; by default the home folder, on Databricks `dbfs:/convoy`.
        experiment: name of the MLflow experiment; on Databricks it is below `/Shared`.
    """
    on_databricks = paths.on_databricks()
    storage = storage or (_CLUSTER_STORAGE if on_databricks else "")
    settings = {"tracking.experiment": f"/Shared/{experiment}" if on_databricks else experiment}
    if on_databricks and "MLFLOW_TRACKING_URI" not in os.environ:
        settings["tracking.uri"] = "databricks"
    if storage:
        settings |= {"ingest.tables_uri": f"{storage}/tables", "launch.runs_uri": f"{storage}/runs"}
    return settings


def open_table(config: Config) -> Table:
    """The table of the configured data, which is written if it does not exist. Prints progress.

    Raises:
        ConvoyError: the data is not available or malformed.
    """
    reporter = PrintReporter()
    source = resolve_source(config.data, reporter)
    ready = table.find(config, source)
    if ready is not None:
        return ready
    return table.open_or_build(session.kept_session(_APP), config, source, reporter)[0]


def images(table: Table, split: Split, count: int) -> "Block":
    """The first rows of a split: images [count, height, width, channels] in source values, class indices [count] int32.

    Raises:
        DataError: a file of the table is damaged.
    """
    # Petastorm prints at the end and uses pyarrow interfaces that some versions deprecate.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        from pipelines.data.stream.reader import read_blocks

        blocks = list(read_blocks(table, split, RowRange(0, min(count, table.manifest.rows(split)))))
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])


def train(config: Config, *, again: bool = False) -> FinishedRun:
    """Train and record the run, or reuse the newest finished run with the same configuration and table.

    Args:
        config: settings of the run. Its section `tracking` is ignored when runs are compared.
        again: train even if there is such a run.

    Raises:
        ConvoyError: training failed.
    """
    console = TrainingConsole(config.training.epochs)
    if not again:
        earlier = _earlier(config, open_table(config).uri)
        if earlier is not None:
            console.say(f"reusing {paths.display(earlier.run_dir)}, which was trained with exactly these settings")
            return earlier
    session.kept_session(_APP)
    summary = run_training(config, console, time.time())
    assert summary.test is not None
    metric, value = next(iter(summary.test.metrics.items()))
    console.say(f"test {metric} {tasks.shown(metric, value)} of {summary.test.rows:,} rows, after {summary.seconds.total:.0f} s")
    return finished_run.just_ended(Path(summary.run_dir))


def _earlier(config: Config, table_uri: str) -> FinishedRun | None:
    comparable = _comparable(config)
    return finished_run.newest(
        paths.to_python(config.launch.runs_uri),
        lambda run: _comparable(run.config) == comparable and run.summary.table == table_uri,
    )


def _comparable(config: Config) -> Config:
    """The settings without those that do not affect the result."""
    return dataclasses.replace(config, tracking=Config().tracking)


def _find(file: str) -> Path:
    here = Path.cwd()
    candidates = [paths.to_python(file), *(folder / file for folder in (here, *here.parents))]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise ConfigError(f"{file}: not found in {here} or above it; open the notebook in a checkout of the repository")
    return path
