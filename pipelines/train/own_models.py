"""What a network of the user's may not be combined with, and layers that stay as they are."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import keras

from pipelines.config import Config
from pipelines.errors import ConfigError
from pipelines.models.custom import building
from pipelines.models.layers import CustomLoss
from pipelines.system import import_path
from pipelines.train.precision import ResolvedPrecision


def check_trainable(model: keras.Model, config: Config, resolved: ResolvedPrecision, inner: CustomLoss | None) -> None:
    """Check a network of the user's before it is compiled. Registered networks go with every setting.

    Raises:
        ConfigError: it cannot be saved, or not be trained with these settings.
    """
    path = import_path.parse(config.model.name)
    if path is None:
        return
    building.check_savable(model, path)
    own_step = has_own_step(model)
    setting, training = f"model.name={path}", config.training
    for name, off in (("accumulation_steps", 1), ("steps_per_execution", 1), ("canonical_shards", 0)):
        value = getattr(training, name)
        if own_step and value > off:
            raise ConfigError(f"training.{name}={value}: must be {off}, {setting} has its own train_step")
    if own_step and resolved == "float16":
        raise ConfigError(f"training.precision=float16: must be float32 or bfloat16, {setting} has its own train_step")
    if inner is None:
        return
    if own_step or getattr(model, "inputs", None) is None:
        raise ConfigError(f"{setting}: a LOSS on a layer needs a model of inputs and outputs without its own train_step")
    if inner.layer not in [layer.name for layer in model.layers]:
        raise ConfigError(f"{setting}: LOSS names layer {inner.layer}, which the model lacks; give the layer this name")


def has_own_step(model: keras.Model) -> bool:
    """Whether a network has a training step of its own."""
    return type(model).train_step is not keras.Model.train_step


def allow_unused_metrics(model: keras.Model) -> None:
    """Let a training step of the user's leave the compiled metrics alone, in place. It then gives what it measures itself."""

    class OwnStepModel(type(model)):  # type: ignore[misc]
        def get_metrics_result(self) -> dict[str, Any]:
            try:
                result: dict[str, Any] = super().get_metrics_result()
            except ValueError:
                # Keras builds metrics at their first update.
                return {}
            return result

    model.__class__ = OwnStepModel


def freeze(model: keras.Model, patterns: Sequence[str]) -> None:
    """Keep the weights of some layers as they are. Call before the model is compiled.

    Args:
        model: the network.
        patterns: of the names of layers, as `fnmatch` takes them; layers inside others count, too.

    Raises:
        ConfigError: a pattern matches no layer with weights, or no weight is left to train.
    """
    layers = [layer for layer in model._flatten_layers(include_self=False) if layer.weights]
    for pattern in patterns:
        chosen = [layer for layer in layers if fnmatch.fnmatchcase(layer.name, pattern)]
        if not chosen:
            names = ", ".join(layer.name for layer in layers)
            raise ConfigError(f"model.frozen: {pattern} matches no layer with weights; there are {names}")
        for layer in chosen:
            layer.trainable = False
    if patterns and not model.trainable_weights:
        raise ConfigError("model.frozen: leaves no weights to train; leave a layer out")
