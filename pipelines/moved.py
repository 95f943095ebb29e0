"""Former import paths of public modules: they lead to the new modules, with a DeprecationWarning that names them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Sequence

# A package moves with the modules in it.
_MODULES = {
    "pipelines.launch.lab": "pipelines.launch.notebook",
    "pipelines.paths": "pipelines.system.paths",
    "pipelines.score.evaluate.mcnemar": "pipelines.tasks.mcnemar",
    "pipelines.score.mcnemar": "pipelines.tasks.mcnemar",
    "pipelines.score.model": "pipelines.score.classifier",
    "pipelines.stream": "pipelines.data.stream",
    "pipelines.track.follower": "pipelines.track.mlflow.follower",
    "pipelines.track.recorded": "pipelines.track.finished_run",
}
# Names that the new module has under another name, or that now belong to another module.
_NAMES = {
    "pipelines.score.model": {
        "ModelInfo": "pipelines.score.model_info.ModelInfo",
        "connect": "pipelines.score.mlflow_client.connect",
        "find": "pipelines.score.model_lookup.find",
        "read_info": "pipelines.score.model_info.read",
        "registered_name": "pipelines.score.model_lookup.registered_name",
    },
    "pipelines.track.follower": {"Follower": "pipelines.track.mlflow.follower.MlflowSync"},
    "pipelines.track.recorded": {"RecordedRun": "pipelines.track.finished_run.FinishedRun"},
}


class _Finder:
    """Finds the former paths. Must come before all other finders, which would load `stream.sharding` a second time."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        new = _new_path(name) if name.startswith("pipelines.") else None
        if new is None or importlib.util.find_spec(new) is None:
            return None
        # Subclassing importlib.abc.Loader would cost each start of Python 15 ms.
        return ModuleSpec(name, _Loader(name, new))  # type: ignore[arg-type]


class _Loader:
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{self._old} has moved: import {self._new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self._new)
        # Python is about to put the spec of the old path into the module.
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
        for name, full_name in _NAMES.get(self._old, {}).items():
            owner, _, attribute = full_name.rpartition(".")
            setattr(module, name, getattr(importlib.import_module(owner), attribute))


def _new_path(name: str) -> str | None:
    for old, new in _MODULES.items():
        if f"{name}.".startswith(f"{old}."):
            return new + name.removeprefix(old)
    return None


def install() -> None:
    """Let the former paths be imported."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
