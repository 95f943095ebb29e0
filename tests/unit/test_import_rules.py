import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "pipelines").rglob("*.py"))
# What all rooms share, as folders and modules of the package: settings, paths, errors, the table's contract, the run's folder.
SHARED = ("cli", "config", "errors", "progress", "system", "data.formats", "data.table", "track.rundir")
VOCABULARY = "vocabulary"
MAY_IMPORT = {
    VOCABULARY: set(),
    "data.sources": {VOCABULARY},
    "data.ingest": {VOCABULARY, "data.sources"},
    "data.stream": {VOCABULARY},
    "models": {VOCABULARY},
    "track": {VOCABULARY},
    # A model is used on data that ingest reads, and an evaluation is a run like a training.
    "score": {VOCABULARY, "data.sources", "data.ingest", "track"},
    "train": {VOCABULARY, "data.stream", "models"},
    "launch": {VOCABULARY, "data.sources", "data.ingest", "data.stream", "models", "train", "track"},
    # Many trainings, each of which launch runs.
    "sweep": {VOCABULARY, "data.sources", "data.ingest", "models", "track", "score", "launch"},
}
OWNERS = {
    # Score and sweep have no Spark session of their own: they are given the one that launch opens.
    "pyspark": {"data.ingest", "launch", "score", "sweep"},
    "petastorm": {"data.stream"},
    "keras": {"models", "train"},
    "tensorflow": {"data.stream", "models", "train"},
    "horovod": {"train", "launch"},
    # Ranks save the model through track; nothing else names it.
    "mlflow": {"track", "score"},
    # tools/databricks sends jobs, and is no part of the package.
    "databricks": set(),
    "optuna": {"sweep"},
}


def room_of(name: str) -> str:
    """The room of a module of the package, by its full name."""
    inside = name.removeprefix("pipelines").removeprefix(".")
    if any(f"{inside}.".startswith(f"{shared}.") for shared in SHARED) or not inside:
        return VOCABULARY
    return next((room for room in MAY_IMPORT if f"{inside}.".startswith(f"{room}.")), VOCABULARY)


def imported(path: Path) -> set[str]:
    """Full names, those under `if TYPE_CHECKING` left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way_and_each_library_has_its_owner(path):
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for name in imported(path):
        head, *rest = name.split(".")
        if head == "pipelines" and rest:
            target = room_of(name)
            assert target == room or target in MAY_IMPORT[room], f"{room} must not import {name}"
        assert room in OWNERS.get(head, {room}), f"{head} belongs to {OWNERS.get(head)}, not to {room}"


def test_the_driver_imports_neither_tensorflow_nor_mlflow():
    heavy = ("tensorflow", "keras", "mlflow", "petastorm", "optuna")
    code = f"import sys, pipelines.launch.training, pipelines.sweep.run_sweep; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
