"""All networks by name. A new network is one file in this folder and one line here; one of the user's is an import path.

Keras is imported only when a network is built, because the driver checks names without it.
"""

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipelines.data.table.schema import DataSpec
from pipelines.data.table.schema import Task as TaskName
from pipelines.errors import ConfigError
from pipelines.system import import_path

if TYPE_CHECKING:
    import keras

    from pipelines.models.layers import CustomLoss

# Each module has `build(spec: DataSpec, outputs: int) -> keras.Model`, and `LOSS: CustomLoss` if it is not cross-entropy.
NETWORKS: dict[str, str] = {
    "mlp": "pipelines.models.mlp",
    "mlp_three": "pipelines.models.mlp_three",
    "mlp_wide": "pipelines.models.mlp_wide",
    "convnet": "pipelines.models.convnet",
    "convnet_two": "pipelines.models.convnet_two",
    "convnet_dropout": "pipelines.models.convnet_dropout",
    "convnet_batchnorm": "pipelines.models.convnet_batchnorm",
    "convnet_deep": "pipelines.models.convnet_deep",
    "lenet5": "pipelines.models.lenet5",
    "vgg": "pipelines.models.vgg",
    "inception": "pipelines.models.inception",
    "resnet": "pipelines.models.resnet",
    "dilated": "pipelines.models.dilated",
    "capsnet": "pipelines.models.capsnet",
}
# All others need pictures.
TAKE_FEATURES = ("mlp", "mlp_three", "mlp_wide")
# For messages: the loss of each network with `LOSS`.
CUSTOM_LOSSES: dict[str, str] = {"capsnet": "the margin loss, whose targets 0.9 and 0.1 are already soft"}


def check(name: str, label_smoothing: float = 0.0, arguments: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raises ConfigError if there is no network of this name, it takes no arguments, or its loss no label smoothing.

    Import paths of the user's are checked by `pipelines.models.custom`.
    """
    if import_path.parse(name) is not None:
        return
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NETWORKS)}"
        raise ConfigError(f"model.name={name}: no such network; {hint}, or name your own as path/to/file.py:function")
    if arguments:
        raise ConfigError(f"model.arguments={dict(arguments)}: {name} takes none; only networks of your own do")
    if label_smoothing and name in CUSTOM_LOSSES:
        raise ConfigError(
            f"training.label_smoothing={label_smoothing:g}: must be 0 with model.name={name}, "
            f"which is trained with {CUSTOM_LOSSES[name]}"
        )


def check_features(name: str, features: int) -> None:
    """Raises ConfigError if rows have features (0: they are pictures) and the network is one that needs pictures."""
    if features and name in NETWORKS and name not in TAKE_FEATURES:
        raise ConfigError(
            f"model.name={name}: needs pictures, and with data.features={features} rows are none; there are "
            f"{', '.join(TAKE_FEATURES)}, or give data.image_shape instead"
        )


def check_task(name: str, task: TaskName) -> None:
    """Raises ConfigError if numbers are to be predicted by a network whose loss is one of classes."""
    if task == "regression" and name in CUSTOM_LOSSES:
        raise ConfigError(
            f"data.task=regression: must be classification with model.name={name}, which is trained with {CUSTOM_LOSSES[name]}; "
            "choose another network"
        )


def build(name: str, spec: DataSpec, outputs: int, arguments: Mapping[str, Any] = MappingProxyType({})) -> "keras.Model":
    """Build a network, uncompiled.

    Input `image`: [batch, height, width, channels], or `features`: [batch, features]; source values. Output: [batch, outputs]
    float32 probabilities. Layers use the dtype policy in effect during the call.

    Args:
        name: a registered network, or the import path of the user's function.
        spec: what a row of the table holds.
        outputs: number of classes or targets.
        arguments: for the user's function.

    Raises:
        ConfigError: there is no network of this name, the image is too small for it, or the user's function gives no such model.
        UserCodeError: the user's function raises.
    """
    check(name)
    reset_layer_names()
    path = import_path.parse(name)
    if path is not None:
        from pipelines.models.custom import building

        return building.build(path, spec, outputs, arguments)
    if not spec.is_picture:
        check_features(name, spec.num_values)
    try:
        model: keras.Model = importlib.import_module(NETWORKS[name]).build(spec, outputs)
    except ValueError as error:
        # From `layers.require_size`, or from Keras, which names the layer whose output would be empty.
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.name={name}: cannot be built for images of {spec.shape} ({reason})") from error
    return model


def reset_layer_names() -> None:
    """Have Keras number the layers that get no name from the start, so that a network's names are the same in every process."""
    # Keras exports no way to do it that leaves its random generators and dtype policy alone.
    from keras.src.utils import naming

    naming.reset_uids()


def custom_loss(name: str) -> "CustomLoss | None":
    """The custom loss of a registered network; None if it is trained with cross-entropy, or is the user's."""
    if name not in NETWORKS:
        return None
    loss: CustomLoss | None = getattr(importlib.import_module(NETWORKS[name]), "LOSS", None)
    return loss
