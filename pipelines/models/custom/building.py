"""Builds a network of the user's, and checks what its function gives before anything is trained."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from pipelines.data.table.schema import DataSpec
from pipelines.errors import ConfigError
from pipelines.models.custom import loading
from pipelines.models.custom.serving import own_objects
from pipelines.system.import_path import ImportPath

_ROWS = 2
# Of probabilities in bfloat16, which has three digits.
_TOLERANCE = 0.05


def build(path: ImportPath, spec: DataSpec, outputs: int, arguments: Mapping[str, Any]) -> keras.Model:
    """Call the user's function.

    Args:
        path: the function.
        spec: what a row of the table holds.
        outputs: number of classes or targets.
        arguments: passed by name.

    Raises:
        ConfigError: it does not give an uncompiled model of one input `spec.shape` and one output [batch, outputs].
        UserCodeError: it raises.
    """
    function = loading.load(path, "model.name")
    if not callable(function):
        raise ConfigError(f"model.name={path}: must be a function that gives a keras.Model, not {type(function).__name__}")
    with loading.errors_named():
        try:
            model = function(spec, outputs, **arguments)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise
            raise ConfigError(f"model.name={path}: cannot be called as {path.name}(spec, outputs, ...): {error}") from error
        _check(model, f"model.name={path}", spec, outputs)
    return model


def check_savable(model: keras.Model, path: ImportPath) -> None:
    """Raises ConfigError if a model could not be restored from its configuration, as a logged model is."""
    remedy = "give its classes get_config, and no Lambda layers"
    try:
        with keras.saving.custom_object_scope(own_objects([loading.module_of(path, "model.name")])):
            again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"model.name={path}: its model cannot be saved and loaded again ({reason}); {remedy}") from error
    shapes = [[tuple(weight.shape) for weight in each.weights] for each in (model, again)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"model.name={path}: its model has other weights when it is saved and loaded again; {remedy}, and make layers in "
            "__init__ or build"
        )


def _check(model: Any, setting: str, spec: DataSpec, outputs: int) -> None:
    if not isinstance(model, keras.Model):
        hint = "does the function lack a return?" if model is None else "return the model itself"
        raise ConfigError(f"{setting}: must give a keras.Model, not {type(model).__name__}; {hint}")
    if model.compiled:
        raise ConfigError(f"{setting}: must give an uncompiled model; training.optimizer, training.loss and METRICS compile it")
    inputs = getattr(model, "inputs", None)
    if inputs is not None and [tuple(each.shape[1:]) for each in inputs] != [tuple(spec.shape)]:
        shapes = ", ".join(str(list(each.shape[1:])) for each in inputs)
        raise ConfigError(f"{setting}: its input is {shapes}, a row of the table is {list(spec.shape)}; use spec.shape")
    rows = np.random.default_rng(0).uniform(*spec.value_range, size=(_ROWS, *spec.shape)).astype(np.float32)
    # Builds a subclassed model.
    output = model(rows, training=False)
    shape = getattr(output, "shape", None)
    if shape is None or tuple(shape) != (_ROWS, outputs):
        shown = list(shape[1:]) if shape is not None else f"a {type(output).__name__}"
        what = "classes" if spec.task == "classification" else "targets"
        raise ConfigError(
            f"{setting}: its output is {shown}, the table has {outputs} {what}; end it with a layer of `outputs` units"
        )
    if spec.task == "classification":
        _check_probabilities(keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")), setting)


def _check_probabilities(given: Any, setting: str) -> None:
    if np.isfinite(given).all() and ((given < 0).any() or (np.abs(given.sum(axis=1) - 1) > _TOLERANCE).any()):
        raise ConfigError(
            f"{setting}: its output is no probabilities (a row is from {given[0].min():.3g} to {given[0].max():.3g}, in sum "
            f"{given[0].sum():.3g}); end it with activation='softmax'"
        )
