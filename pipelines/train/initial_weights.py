"""Weights that a training starts from: those of another model, layer by layer, where name and shapes agree."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import numpy.typing as npt

from pipelines.errors import ConfigError
from pipelines.system import paths
from pipelines.track.rundir.layout import WEIGHTS_FOLDER

_Arrays = Mapping[str, npt.NDArray[Any]]
_VARIABLES = "vars"
_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of the layers of a network."""

    layers: int
    """Layers that got their weights."""
    left: tuple[str, ...]
    """Layers that start from random weights, each with the reason."""


def location(weights: str, run_dir: Path | None) -> Path:
    """The file of `model.weights`: what the driver put into the run folder, or the file itself where there is none."""
    kept = sorted((run_dir / WEIGHTS_FOLDER).glob("*")) if run_dir is not None else []
    return kept[0] if kept else paths.to_python(weights, "model.weights=")


def assign(model: keras.Model, file: Path) -> Taken:
    """Give the layers of a network the weights of those of the same name and shapes in a file.

    Args:
        model: a built network.
        file: .keras or .weights.h5.

    Raises:
        ConfigError: the file is none of these, or no layer fits.
    """
    stored = _read(file, model)
    taken, left = 0, []
    for layer in model._flatten_layers():
        own: dict[str, Any] = {}
        layer.save_own_variables(own)
        if not own:
            continue
        arrays = stored.get(layer.name)
        shapes = {name: tuple(np.shape(array)) for name, array in own.items()}
        if arrays is None:
            left.append(f"{layer.name} (not in the file)")
        elif {name: array.shape for name, array in arrays.items()} != shapes:
            left.append(f"{layer.name} ({_shown(arrays)} in the file, {_shown(own)} in the network)")
        else:
            layer.load_own_variables(arrays)
            taken += 1
    if not taken:
        raise ConfigError(
            f"model.weights: no layer of {file.name} fits; it has {_few(stored)}, the network {_few(left)}; name layers alike"
        )
    return Taken(layers=taken, left=tuple(left))


def _read(file: Path, model: keras.Model) -> dict[str, _Arrays]:
    """Variables of each layer by the layer's name. A name that occurs twice is left out.

    Files of older versions of Keras have no names of layers, but classes in their order. Names are then those of the model's
    configuration in the file, or in a file without one those of the network that takes the weights.
    """
    try:
        if file.suffix == ".keras":
            with zipfile.ZipFile(file) as archive:
                names = dict(_names(json.loads(archive.read("config.json")), ""))
                content: Any = io.BytesIO(archive.read("model.weights.h5"))
        else:
            # Not `to_json`, which would hold the optimizer, too.
            names, content = dict(_names({"config": model.get_config()}, "")), file
        found: dict[str, list[_Arrays]] = {}
        with h5py.File(content, "r") as store:
            for path, group in _groups(store, ""):
                name = group[_VARIABLES].attrs.get("name") or names.get(path) or path.rpartition("/")[2]
                name = name.decode() if isinstance(name, bytes) else str(name)
                found.setdefault(name, []).append({key: np.asarray(array) for key, array in group[_VARIABLES].items()})
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"model.weights: {file.name} is no .keras or .weights.h5 file of Keras 3 ({error})") from error
    return {name: groups[0] for name, groups in found.items() if len(groups) == 1}


def _groups(group: h5py.Group, path: str) -> Iterator[tuple[str, h5py.Group]]:
    """The groups of layers with variables, by path."""
    if len(group.get(_VARIABLES, ())):
        yield path, group
    for key, child in group.items():
        if isinstance(child, h5py.Group) and key != _VARIABLES:
            yield from _groups(child, f"{path}/{key}".lstrip("/"))


def _names(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """The paths at which Keras stores the layers of a model of this configuration, with their names."""
    used: dict[str, int] = {}
    settings = config.get("config")
    for layer in settings.get("layers", ()) if isinstance(settings, Mapping) else ():
        kind = _snake_case(layer["class_name"])
        number = used[kind] = used.get(kind, -1) + 1
        place = f"{path}/layers/{kind}{f'_{number}' if number else ''}".lstrip("/")
        yield place, layer["config"].get("name", "")
        yield from _names(layer, place)


def _snake_case(name: str) -> str:
    """As Keras makes the name of a group from that of a class."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _shown(arrays: Mapping[str, Any]) -> str:
    return " and ".join(str(list(np.shape(array))) for array in arrays.values())


def _few(names: Any) -> str:
    listed = [str(name).partition(" ")[0] for name in names]
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")
