import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "pipelines").rglob("*.py"))
# The packages from the lowest floor to the highest, each with the lower ones it imports. A module belongs to the longest name
# that contains it. Modules have a line of their own where the rest of their folder lies on another floor.
MAY_IMPORT = {
    "moved": "",
    "version": "moved",  # `pipelines/__init__.py`
    "errors": "",
    "progress": "",
    "models.memory": "",
    "system": "errors",
    "config": "errors system",
    # The data set.
    "data.table": "errors system",
    "data.formats": "errors system config data.table",
    "data.sources": "errors system config data.table data.formats",
    "data.ingest": "version errors system config data.table data.formats data.sources",
    "data.stream": "errors progress system config data.table",
    # The run.
    "track.rundir": "errors system config",
    "cli": "errors system config track.rundir",
    "track.figures": "",
    "tasks": "errors data.table track.rundir track.figures",
    "track.figures.catalog": "data.table track.rundir track.figures tasks",
    "track.console": "system config track.rundir tasks",
    "track.mlflow": "errors system config data.table data.formats track.rundir",
    "track": "version errors system config data.table track.rundir track.figures tasks track.figures.catalog track.mlflow",
    # The worker.
    "models.custom": "errors system config data.table",
    "models": "errors system data.table tasks models.custom",
    "train.precision": "config",
    "train.collectives": "errors progress system config",
    "train.kernels": "system train.precision",
    "train.optim": "config progress train.collectives",
    "train.devices": "errors",
    "train.worker_setup": "errors config data.table data.stream train.precision train.devices train.collectives train.optim",
    "train.checkpoint": "errors system config track.rundir train.optim train.worker_setup",
    "train": "errors progress system config data.table data.stream track.rundir tasks models models.custom models.memory "
    "train.precision train.worker_setup train.collectives train.kernels train.optim train.checkpoint",
    # The driver.
    "launch.session": "errors system",
    "launch.slots": "errors system",
    "launch.tasks": "system",
    "launch.rendezvous": "errors",
    "launch.health": "errors progress system config track.rundir",
    "launch.preflight": "errors system models.memory train.precision launch.session launch.slots launch.tasks",
    "launch.workers": "errors progress system config track.rundir "
    "launch.session launch.slots launch.tasks launch.rendezvous launch.health",
    "launch": "errors progress system config data.table data.sources data.ingest data.stream "
    "track.rundir tasks track.console track.mlflow track models models.custom train.checkpoint train.collectives train "
    "launch.session launch.slots launch.health launch.preflight launch.workers",
    # A finished model.
    "score": "errors system models.memory data.table data.formats",
    "score.evaluate": "errors system config data.table data.formats data.sources data.ingest "
    "track.rundir tasks track.figures.catalog track.mlflow track score",
    "score.model_registry": "errors system tasks score",
    "score.batch": "version errors system config data.table data.formats data.sources data.ingest score score.evaluate",
    # What a program uses.
    "api": "errors system config track.console track.mlflow track launch.session launch score score.evaluate score.batch",
    # Many trainings.
    "sweep": "errors system config data.sources data.ingest track.rundir tasks track.console track.figures track.mlflow track "
    "launch.session launch.slots launch.workers launch.preflight launch score score.evaluate",
}
# Every outside library and the packages or modules that may import it.
OWNERS = {
    "PIL": "data.formats",
    "cloudpickle": "launch.ranks launch.workers",
    "h5py": "train.initial_weights",
    # Train averages gradients; launch serves the rendezvous, initializes the ranks and checks each node's build.
    "horovod": "train launch.rendezvous launch.train_function launch.preflight.probe",
    "keras": "models train",
    "matplotlib": "track.figures",
    "mlflow": "track.mlflow score.classifier score.mlflow_client score.model_info score.model_lookup score.model_registry",
    "numba": "system.kernel_cache data.formats.libsvm_kernel data.formats.number_kernel train.kernels",
    "numpy": "api data models.custom tasks track.figures track.mlflow track.rundir train launch.notebook score sweep",
    "optuna": "sweep.search",
    "petastorm": "data.stream",
    "psutil": "system track launch",
    "py4j": "data.ingest data.sources.frames launch.session launch.slots score",
    "pyarrow": "data.table data.formats data.sources data.ingest data.stream.petastorm_compat launch.tasks score",
    # Only launch.session opens a session; score and sweep receive it.
    "pyspark": "api data.ingest data.sources.frames launch score sweep",
    "rich": "data.sources.downloads track.console.terminal",
    "scipy": "tasks",
    "tensorflow": "data.stream models train",
    "yaml": "config cli sweep.sweep_file",
}


def lies_in(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def floor_of(name: str) -> str | None:
    """Floor of a module or of a name in it, given without `pipelines.`; None if it has none."""
    if name in ("", "__version__"):
        return "version"
    return max((floor for floor in MAY_IMPORT if lies_in(name, floor)), key=len, default=None)


def module_name(path: Path) -> str:
    """Dotted name without `pipelines.`; empty for the package itself."""
    return ".".join(path.relative_to(ROOT / "pipelines").with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def imported(path: Path) -> set[str]:
    """Full names of the imports, except those under `if TYPE_CHECKING`."""
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


def imported_floors(path: Path) -> set[str]:
    """Other floors that the module imports from."""
    inside = {name.removeprefix("pipelines").removeprefix(".") for name in imported(path) if lies_in(name, "pipelines")}
    floors = {floor_of(name) for name in inside}
    assert None not in floors, f"{path}: imports {[name for name in inside if floor_of(name) is None]}, which has no floor"
    return floors - {floor_of(module_name(path))}


each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


@each_module
def test_a_module_imports_only_what_its_floor_may(path):
    name = module_name(path)
    floor = floor_of(name)
    if floor is None:
        assert path.name == "__init__.py", f"{name} has no floor; add one to MAY_IMPORT"
        assert not imported(path), f"{name} holds folders and imports nothing"
        return
    forbidden = imported_floors(path) - set(MAY_IMPORT[floor].split())
    assert not forbidden, f"{floor} must not import from {sorted(forbidden)}"


def test_no_floor_imports_from_a_higher_one():
    lower = []
    for floor, allowed in MAY_IMPORT.items():
        higher = set(allowed.split()) - set(lower)
        assert not higher, f"{floor} must not import from {sorted(higher)}, which is not lower"
        lower.append(floor)


def test_no_floor_may_import_what_it_does_not():
    used = {floor: set() for floor in MAY_IMPORT}
    for path in MODULES:
        if floor := floor_of(module_name(path)):
            used[floor] |= imported_floors(path)
    unused = {floor: sorted(set(allowed.split()) - used[floor]) for floor, allowed in MAY_IMPORT.items()}
    assert not {floor: names for floor, names in unused.items() if names}


@each_module
def test_each_library_has_its_owner(path):
    for name in imported(path):
        library = name.split(".")[0]
        if library == "pipelines" or library in sys.stdlib_module_names:
            continue
        assert library in OWNERS, f"{library} has no owner; the package imports neither jobs, tools, notebooks nor benchmarks"
        owners = OWNERS[library].split()
        assert any(lies_in(module_name(path), owner) for owner in owners), f"{library} belongs to {owners}"


def test_the_driver_imports_neither_tensorflow_nor_mlflow():
    heavy = ("tensorflow", "keras", "mlflow", "petastorm", "optuna")
    code = f"import sys, pipelines.launch.training, pipelines.sweep.run_sweep; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_ranks_unpickle_nothing_that_other_ranks_send():
    """Their connections are not authenticated (docs/security.md)."""
    for path in (ROOT / "pipelines/train").rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"allgather_object", "broadcast_object"}, path
        assert not {name.partition(".")[0] for name in imported(path)} & {"pickle", "cloudpickle", "dill"}, path
