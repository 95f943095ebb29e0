"""Import paths from before the packages were rearranged, as the labs and docs of then use them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOVED = {
    "pipelines.launch.lab": ("pipelines.launch.notebook", ["configuration", "open_table", "images", "train"]),
    "pipelines.paths": ("pipelines.system.paths", ["home", "on_databricks", "to_python"]),
    "pipelines.score.evaluate.mcnemar": ("pipelines.tasks.mcnemar", ["PairedCounts"]),
    "pipelines.score.mcnemar": ("pipelines.tasks.mcnemar", ["PairedCounts"]),
    "pipelines.score.model": ("pipelines.score.classifier", ["Classifier", "ModelInfo", "connect", "find", "read_info"]),
    "pipelines.stream.sharding": ("pipelines.data.stream.sharding", ["file_parts", "shard", "steps_per_epoch"]),
    "pipelines.track.follower": ("pipelines.track.mlflow.follower", ["Follower", "default_tracking_uri"]),
    "pipelines.track.recorded": ("pipelines.track.finished_run", ["RecordedRun", "newest", "read"]),
}


def python(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("old", MOVED)
def test_a_former_path_imports_the_new_module_with_a_warning_that_names_it(old, monkeypatch):
    new, names = MOVED[old]
    for name in [name for name in sys.modules if f"{name}.".startswith((f"{old}.", "pipelines.stream."))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(DeprecationWarning, match=f"^{old} has moved: import {new}$") as caught:
        module = importlib.import_module(old)
    assert module is sys.modules[old] is sys.modules[new]
    assert module.__name__ == module.__spec__.name == new
    assert not [name for name in names if not hasattr(module, name)]
    assert not [warning for warning in caught if warning.filename.endswith("moved.py")]
    # A second import finds it in sys.modules.
    assert importlib.import_module(old) is module


def test_both_forms_of_import_work_and_warnings_point_to_the_importing_line():
    done = python(
        "from pipelines import paths\nimport pipelines.stream.sharding as sharding\nfrom pipelines.launch import lab\n"
        "from pipelines.data.stream.sharding import RowRange\nfrom pipelines.track.recorded import RecordedRun\n"
        "assert sharding.RowRange is RowRange and paths.__name__ == 'pipelines.system.paths'\n"
        "assert 'pipelines.stream' in __import__('sys').modules and RecordedRun.__name__ == 'FinishedRun'\n"
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line]
    assert [line.split(": ")[0] for line in lines] == ["<string>:1", "<string>:2", "<string>:2", "<string>:3", "<string>:5"]


def test_a_missing_module_is_reported_by_the_requested_name():
    for name in ("pipelines.nowhere", "pipelines.stream.nowhere", "pipelines.paths.nowhere"):
        with pytest.raises(ModuleNotFoundError) as caught:
            importlib.import_module(name)
        assert caught.value.name == name


def test_importing_the_package_is_quick_and_raises_no_warning():
    done = python(
        "import sys, time; started = time.perf_counter(); import pipelines; print(time.perf_counter() - started)", "-W", "error"
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.3
