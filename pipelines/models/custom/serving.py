"""Loads a saved Keras model that has classes and functions of the user's.

A copy of this file in a logged model's folder, with the names of the user's modules in `modules.txt` beside it, runs where only
the model's requirements are installed: MLflow takes the folder for Keras (`pipelines.track.mlflow.logged_model`).
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras


def load_model(*arguments: Any, custom_objects: dict[str, Any] | None = None, **settings: Any) -> Any:
    """As `keras.models.load_model`, within the user's modules."""
    names = Path(__file__).with_name("modules.txt").read_text(encoding="utf-8").split()
    with keras.saving.custom_object_scope(own_objects(importlib.import_module(name) for name in names)):
        return keras.models.load_model(*arguments, custom_objects=custom_objects, **settings)


def own_objects(modules: Iterable[ModuleType]) -> dict[str, Any]:
    """Classes and functions that the modules define, by each name under which Keras may have saved them."""
    found: dict[str, Any] = {}
    for module in modules:
        package = module.__name__.partition(".")[0]
        for value in vars(module).values():
            if callable(value) and str(getattr(value, "__module__", "")).partition(".")[0] == package:
                found[value.__name__] = found[keras.saving.get_registered_name(value)] = value
    return found
