"""What a training minimizes and measures: loss and metrics of the task, or those of the user's."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipelines import tasks
from pipelines.config import Config
from pipelines.data.table.schema import DataSpec, Table
from pipelines.errors import ConfigError
from pipelines.models import registry
from pipelines.models.custom import loading
from pipelines.models.layers import CustomLoss
from pipelines.system import import_path
from pipelines.tasks.metric import mean_over_rows
from pipelines.train.targets import Loss, TargetRules

RowFunction = Callable[[Any, Any], tf.Tensor]
"""Takes targets [n, ...] and outputs [n, outputs]; gives a value per row [n] float32."""


def target_rules(config: Config, table: Table) -> TargetRules:
    """How the targets of the table are learned and measured with these settings. What is the user's is tried on a few rows.

    Raises:
        ConfigError: a loss or metric does not exist, or does not fit targets and outputs.
        UserCodeError: one of the user's raises.
    """
    training, manifest, path = config.training, table.manifest, import_path.parse(config.model.name)
    module = loading.module_of(path, "model.name") if path is not None else None
    task, spec, outputs = tasks.of(manifest.spec.task), manifest.spec, manifest.num_outputs
    of_module = f"of {path.module}" if path is not None else ""
    loss: str | Loss = task.losses[0]
    inner = registry.custom_loss(config.model.name)
    given, origin = None, f"LOSS {of_module}"
    if tasks.full_loss_name(training.loss) in task.losses:
        loss, inner = tasks.full_loss_name(training.loss), None
    elif training.loss:
        given, inner, origin = _named(training.loss, "training.loss", keras.losses), None, f"training.loss={training.loss}"
    elif hasattr(module, "LOSS"):
        given, inner = _of_module(module, origin)
    if given is not None:
        loss = per_row(given, origin, spec, outputs)
    if training.label_smoothing and (given is not None or (inner is not None and module is not None)):
        raise ConfigError(f"training.label_smoothing={training.label_smoothing:g}: must be 0 with {origin}")
    entries, origin = training.metrics or getattr(module, "METRICS", ()), f"METRICS {of_module}"
    origin = "training.metrics" if training.metrics else origin
    known = ("loss", *(metric.name for metric in task.metrics))
    more = []
    for name, metric in _metrics(entries, origin):
        if name in known or "/" in name:
            raise ConfigError(f"{origin}: {name} is measured already, or is no name; leave it out, or give yours another name")
        function = per_row(metric, f"{origin}, {name}", spec, outputs)
        more.append(mean_over_rows(name, _of_rows(function), label=name))
    return TargetRules(manifest, loss, inner, tuple(more))


def _of_rows(function: RowFunction) -> Callable[[Any, Any, Any], Any]:
    """A function of TensorFlow's as one of NumPy or Keras' operations (`pipelines.tasks.metric`)."""

    def of_rows(ops: Any, targets: Any, outputs: Any) -> Any:
        if ops is not np:
            return ops.cast(function(targets, ops.cast(outputs, "float32")), "float64")
        if not len(outputs):
            return np.zeros(0)
        return np.asarray(keras.ops.convert_to_numpy(function(targets, outputs.astype(np.float32))), np.float64)

    return of_rows


def _of_module(module: ModuleType | None, setting: str) -> tuple[Any, CustomLoss | None]:
    """The loss that a module brings, and the one on an inner layer; one of them is None."""
    loss = getattr(module, "LOSS", None)
    if isinstance(loss, tuple) and len(loss) == 2 and isinstance(loss[0], str) and callable(loss[1]):
        return None, CustomLoss(*loss)
    if isinstance(loss, str):
        return _named(loss, setting, keras.losses), None
    return _instance(loss, setting), None


def _named(text: str, key: str, library: Any) -> Any:
    """A loss or metric by Keras' name or import path."""
    path = import_path.parse(text)
    if path is not None:
        return _instance(loading.load(path, key), f"{key}={text}")
    try:
        return library.get(text)
    except ValueError as error:
        kind = "losses" if library is keras.losses else "metrics"
        raise ConfigError(
            f"{key}={text}: Keras has none of this name (keras.{kind}); or name your own as file.py:function"
        ) from error


def _instance(found: Any, setting: str) -> Any:
    """What a loss or metric computes: classes are called without arguments."""
    if inspect.isclass(found):
        with loading.errors_named():
            found = found()
    if not callable(found):
        raise ConfigError(
            f"{setting}: must be a function of targets and outputs, or an object of Keras, not {type(found).__name__}"
        )
    return found


def _metrics(entries: Any, origin: str) -> Iterable[tuple[str, Any]]:
    if isinstance(entries, Mapping):
        named = list(entries.items())
    elif isinstance(entries, list | tuple):
        named = [(_name_of(entry), entry) for entry in entries]
    else:
        raise ConfigError(f"{origin}: must be a list of metrics, or a mapping from names to metrics")
    for name, entry in named:
        metric = _named(entry, origin, keras.metrics) if isinstance(entry, str) else _instance(entry, origin)
        yield str(name), _function(metric, f"{origin}, {name}")


def _name_of(entry: Any) -> str:
    if isinstance(entry, str):
        return entry.rpartition(":")[2]
    return str(getattr(entry, "__name__", None) or getattr(entry, "name", type(entry).__name__))


def _function(metric: Any, setting: str) -> Any:
    """The function of a metric that is its mean over rows."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    function, named = getattr(metric, "_fn", None), getattr(metric, "_fn_kwargs", {})
    if not isinstance(metric, keras.metrics.MeanMetricWrapper) or function is None:
        raise ConfigError(
            f"{setting}: is no mean over rows, so it cannot be averaged over ranks; give a function of targets and outputs"
        )
    return lambda targets, outputs: function(targets, outputs, **named)


def per_row(function: Any, setting: str, spec: DataSpec, outputs: int) -> RowFunction:
    """A loss or metric as a value per row, checked on two rows.

    Raises:
        ConfigError: it does not fit.
    """
    # A Keras loss gives the mean over its batch; its `call` does not.
    by_row = function.call if isinstance(function, keras.losses.Loss) else function

    def of_rows(targets: Any, given: Any) -> tf.Tensor:
        values = tf.cast(by_row(_of_task(targets, spec), given), tf.float32)
        if values.shape.rank == 0:
            return tf.fill([tf.shape(given)[0]], values)
        return tf.reduce_mean(tf.reshape(values, (tf.shape(given)[0], -1)), axis=1)

    _check_fit(by_row, setting, spec, outputs)
    return of_rows


def _of_task(targets: Any, spec: DataSpec) -> tf.Tensor:
    """Class indices [n] int32, or numbers [n, targets] float32. Keras casts both to the network's dtype."""
    if spec.task == "classification":
        return tf.reshape(tf.cast(targets, tf.int32), [-1])
    return tf.cast(targets, tf.float32)


def _check_fit(function: Any, setting: str, spec: DataSpec, outputs: int) -> None:
    classes = spec.task == "classification"
    # Another number than outputs, to which a wrong loss would broadcast them.
    rows = 2 if outputs != 2 else 3
    targets = tf.zeros(rows, tf.int32) if classes else tf.zeros((rows, outputs))
    kind = f"class indices [batch] and probabilities [batch, {outputs}]" if classes else f"targets and outputs [batch, {outputs}]"
    name = str(getattr(function, "__name__", "")) or type(function).__name__
    try:
        with loading.errors_named():
            values = tf.convert_to_tensor(function(targets, tf.fill((rows, outputs), 1 / outputs)))
            if not classes and "crossentropy" in name.lower().replace("_", ""):
                raise ValueError("it is a loss of classes")
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        reason = " ".join(str(error).split())[:150]
        hint = "; for classes take sparse_categorical_crossentropy, or one of your own" if classes else ""
        raise ConfigError(f"{setting}: {name} does not fit {kind} ({reason}){hint}") from error
    if values.shape.rank != 0 and values.shape[0] != rows:
        raise ConfigError(f"{setting}: gives {list(values.shape)} for {rows} rows; it must give a value per row, or their mean")
