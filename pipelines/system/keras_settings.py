"""Keras' settings from outside a program: environment variables, and the file keras.json in the user's home folder.

Convoy's networks are written for Keras' defaults. Another image format does not build them, and another float type or a limit of
epochs changes results silently. A copy of this file is in the folder of every logged model, so it imports the standard
library only.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Iterator, Mapping, MutableMapping

_SET = {"KERAS_BACKEND": "tensorflow"}
_UNSET = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED", "TF_USE_LEGACY_KERAS")
# Keras' own. The backend of the file does not count where KERAS_BACKEND is set.
_DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last", "nnx_enabled": False}
# Does not exist and cannot be created, so Keras finds no file there and writes none.
_NOWHERE = os.path.join(os.devnull, "keras")


def changes(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Variables to set, or to unset (None), so that Keras has its own defaults and TensorFlow as its backend.

    Keras' folder, which also holds downloads, is another one only if the settings in it are not the defaults.
    """
    found: dict[str, str | None] = {name: None for name in _UNSET if name in variables}
    found.update({name: value for name, value in _SET.items() if variables.get(name) != value})
    if not _has_defaults(os.path.join(_folder(variables), "keras.json")):
        found["KERAS_HOME"] = _NOWHERE
    return found


@contextlib.contextmanager
def defaults(variables: MutableMapping[str, str]) -> Iterator[None]:
    """Within the block, `variables` are such that an import of Keras ends in its defaults."""
    changed = changes(variables)
    before = {name: variables.get(name) for name in changed}
    apply(variables, changed)
    try:
        yield
    finally:
        apply(variables, before)


def apply(variables: MutableMapping[str, str], changed: Mapping[str, str | None]) -> None:
    """Set variables, or unset those whose value is None."""
    for name, value in changed.items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value


def _folder(variables: Mapping[str, str]) -> str:
    """Keras' folder, found as Keras does."""
    if "KERAS_HOME" in variables:
        return os.path.expanduser(variables["KERAS_HOME"])
    home = variables.get("HOME") or os.path.expanduser("~")
    return os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")


def _has_defaults(file: str) -> bool:
    try:
        with open(file, encoding="utf-8") as opened:
            settings = json.load(opened)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and all(settings.get(name, value) == value for name, value in _DEFAULTS.items())
