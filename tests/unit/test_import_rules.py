import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "pipelines").rglob("*.py"))
VOCABULARY = "vocabulary"
MAY_IMPORT = {
    VOCABULARY: set(),
    "ingest": {VOCABULARY},
    "stream": {VOCABULARY},
    "models": {VOCABULARY},
    "track": {VOCABULARY},
    # A model is used on data that ingest reads, and an evaluation is a run like a training.
    "score": {VOCABULARY, "ingest", "track"},
    # It sends jobs and knows nothing of what they do.
    "submit": {VOCABULARY},
    "train": {VOCABULARY, "stream", "models"},
    "launch": {VOCABULARY, "ingest", "stream", "models", "train", "track", "score"},
    # Many trainings, each of which launch runs.
    "sweep": {VOCABULARY, "ingest", "models", "track", "score", "launch"},
}
OWNERS = {
    # Score and sweep have no Spark session of their own: they are given the one that launch opens.
    "pyspark": {"ingest", "launch", "score", "sweep"},
    "petastorm": {"stream"},
    "keras": {"models", "train"},
    "tensorflow": {"stream", "models", "train"},
    "horovod": {"train", "launch"},
    # Ranks save the model through track; nothing else names it.
    "mlflow": {"track", "score"},
    "databricks": {"submit"},
    "optuna": {"sweep"},
}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "pipelines").parts
    return parts[0] if len(parts) > 1 else VOCABULARY


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
    room = room_of(path)
    for name in imported(path):
        head, *rest = name.split(".")
        if head == "pipelines" and rest:
            target = rest[0] if (ROOT / "pipelines" / rest[0]).is_dir() else VOCABULARY
            assert target == room or target in MAY_IMPORT[room], f"{room} must not import {name}"
        assert room in OWNERS.get(head, {room}), f"{head} belongs to {OWNERS.get(head)}, not to {room}"


def test_the_driver_imports_neither_tensorflow_nor_mlflow():
    heavy = ("tensorflow", "keras", "mlflow", "petastorm", "optuna")
    code = f"import sys, pipelines.launch.training, pipelines.sweep.run; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_among_the_tests_is_none_among_the_benchmarks():
    # Tests import benchmarks too, and both folders are then on the path: the first module of a name would stand for both.
    modules = [{path.stem for path in (ROOT / folder).glob("*.py")} for folder in ("tests", "benchmarks")]
    assert modules[0] & modules[1] == set()
