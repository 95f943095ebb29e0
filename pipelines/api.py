"""Convoy from Python, for notebooks and jobs: train, evaluate, predict, score. docs/api.md shows each.

Work is done in the active Spark session, or else in a new one that lasts until the process ends. Settings are those of
configuration files, as `{"training.epochs": 5}`. Data is a Spark DataFrame, or what `--data` takes: a name, a path, `table:NAME`,
`FORMAT:PATH`.
"""

import math
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame

from pipelines.config import Config, loader
from pipelines.errors import ConfigError
from pipelines.launch import function_file, notebook, session
from pipelines.launch.training import run_training
from pipelines.score import model_lookup
from pipelines.score.batch.scoring_run import ScoringRequest, check, run_scoring
from pipelines.score.classifier import Classifier
from pipelines.score.evaluate.dataset import SplitChoice, select_rows
from pipelines.score.evaluate.evaluation_run import run_evaluation
from pipelines.score.model_info import ModelInfo
from pipelines.system import paths
from pipelines.system.reporter import PrintReporter
from pipelines.track import finished_run
from pipelines.track.console.console import TrainingConsole
from pipelines.track.finished_run import FinishedRun
from pipelines.track.mlflow.follower import default_tracking_uri

if TYPE_CHECKING:
    import keras

__all__ = ["FinishedRun", "evaluate", "load", "predict", "score", "train"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_APP = "convoy"


def train(
    data: DataFrame | str | Path,
    network: Callable[..., Any] | str = "",
    *,
    workers: int = 1,
    columns: Mapping[str, Any] = _NOTHING,
    settings: Mapping[str, Any] = _NOTHING,
    config: str | Path = "",
    name: str = "frame",
) -> FinishedRun:
    """Train a network and record the run, showing the progress.

    Args:
        data: the rows; their table is written, or used again if it exists.
        network: a function `build(spec, outputs)`, its import path, or a registered name; by default what the settings say.
            A function that was defined in a notebook is written to a file with what it uses of other cells.
        workers: Horovod processes.
        columns: which column holds what, as setting `data.columns`.
        settings: by `section.key`; they take precedence over `config`.
        config: a YAML file.
        name: what the data set is called in the run if `data` is a DataFrame.

    Returns:
        the run: its `metrics`, `history`, figures and `summary`, which has its id and the model's URI.

    Raises:
        ConvoyError: the request is invalid, or training failed.
    """
    given = {**_data_settings(data, name, columns, settings), "launch.workers": workers}
    resolved = _configuration(given, config)
    if network:
        folder = paths.to_python(resolved.launch.runs_uri) / "networks"
        location = network if isinstance(network, str) else function_file.location(network, folder)
        resolved = loader.changed(resolved, {"model.name": location}, "network")
    session.kept_session(_APP)
    console = TrainingConsole(resolved.training.epochs)
    summary = run_training(resolved, console, time.time())
    console.result(summary)
    return finished_run.just_ended(Path(summary.run_dir))


def evaluate(
    model: FinishedRun | str,
    data: DataFrame | str | Path,
    *,
    split: SplitChoice = "auto",
    columns: Mapping[str, Any] = _NOTHING,
    settings: Mapping[str, Any] = _NOTHING,
    name: str = "frame",
) -> dict[str, Any]:
    """Evaluate a model on every row once, and record the result below the run that trained it.

    Args:
        model: a run, or a model's URI as `--model` takes it.
        data: the rows, with labels.
        split: which of them, if the data has several.
        columns, settings, name: as in `train`.

    Returns:
        the summary of `./convoy evaluate`; its `test` has the metrics.

    Raises:
        ConvoyError: there is no such model, or the rows do not fit it.
    """
    config = _configuration(_data_settings(data, name, columns, settings))
    info = _info(model, config)
    reporter = PrintReporter()
    selection = select_rows(config, info, "", split, reporter)
    return run_evaluation(session.kept_session(_APP), selection, info, reporter)


def predict(model: FinishedRun | str, rows: npt.ArrayLike, *, settings: Mapping[str, Any] = _NOTHING) -> npt.NDArray[np.float32]:
    """Predict on the driver, without Spark.

    Args:
        model: as in `evaluate`.
        rows: [n, height, width, channels] or [n, features], in source values.
        settings: of section `tracking`.

    Returns:
        probabilities [n, classes], or numbers [n, targets].

    Raises:
        ConvoyError: there is no such model, or the rows do not fit it.
    """
    info = _info(model, _configuration(settings))
    values = np.asarray(rows)
    if values.size != len(values) * math.prod(info.image_shape):
        raise ConfigError(
            f"rows of shape {list(values.shape[1:])}: model {info.uri} takes rows of shape {list(info.image_shape)}"
        )
    return Classifier(info).probabilities(values.reshape(-1, *info.image_shape))


def score(
    model: FinishedRun | str,
    data: DataFrame | str | Path,
    *,
    columns: Mapping[str, Any] = _NOTHING,
    settings: Mapping[str, Any] = _NOTHING,
    name: str = "frame",
    output: str = "",
) -> DataFrame:
    """Predict every row with Spark.

    Args:
        model: as in `evaluate`.
        data: the rows; labels are not needed.
        columns, settings, name: as in `train`.
        output: the Parquet folder to write; by default a new one beside the tables.

    Returns:
        the rows of `output`: all columns of the data, and the predictions.

    Raises:
        ConvoyError: there is no such model, or the rows do not fit it.
    """
    config = _configuration(_data_settings(data, name, columns, settings))
    info = _info(model, config)
    output = output or f"{config.ingest.tables_uri}/scored-{name}-{secrets.token_hex(4)}"
    request = ScoringRequest(
        config=config,
        info=info,
        output=output,
        image_column="",
        digits=info.converts_to_digits("auto"),
        resize=info.resizes_pictures("auto"),
        picture_note=info.picture_note("auto"),
        overwrite=False,
    )
    kind = check(request)
    spark = session.kept_session(_APP)
    run_scoring(spark, request, kind, PrintReporter())
    return spark.read.parquet(paths.to_spark(output))


def load(model: FinishedRun | str, *, settings: Mapping[str, Any] = _NOTHING) -> "keras.Model":
    """The Keras model, in this process.

    Raises:
        ConvoyError: there is no such model, or it is not one of Keras.
    """
    info = _info(model, _configuration(settings))
    found = Classifier(info).keras_model
    if found is None:
        raise ConfigError(f"model {info.uri}: must be a Keras model; MLflow loads this one as another kind")
    return found


def _data_settings(
    data: DataFrame | str | Path, name: str, columns: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings with those that name the data. A DataFrame gets a name in its session."""
    if isinstance(data, str | Path):
        location = paths.given(str(data))
    elif not name.isidentifier():
        raise ConfigError(f"name={name}: must be letters, digits and _, as the name of a table")
    else:
        data.createOrReplaceTempView(name)
        location = f"table:{name}"
    return {**settings, "data.dataset": location, **({"data.columns": dict(columns)} if columns else {})}


def _configuration(settings: Mapping[str, Any], file: str | Path = "") -> Config:
    return loader.load(loader.find(str(file)) if file else None, settings={**notebook.platform_settings(), **settings})


def _info(model: FinishedRun | str, config: Config) -> ModelInfo:
    tracking = model.config.tracking if isinstance(model, FinishedRun) else config.tracking
    uri = model.model_uri if isinstance(model, FinishedRun) else model
    return model_lookup.find(uri, default_tracking_uri(tracking), tracking.experiment)
