"""Compiled functions are kept for other processes, wherever the package lies, and a cache that fails costs time alone."""

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# Each test starts processes that import Numba.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Small, so that compiling it takes a blink.
KERNEL = """
from kernels.part import triple

def six_times(x):
    return 2 * triple(x)
"""
PART = """
import numba

@numba.njit
def triple(x):
    return 3 * x
"""
SCALED = """
import numba

FACTOR = 0

# Recursive, so that it is called, not inlined.
@numba.njit
def times_factor(x):
    return FACTOR * x if x < 2 else times_factor(x - 1) + times_factor(x - 2) + FACTOR

def scaled(x):
    return times_factor(x) + FACTOR
"""
WITH_CONSTANTS = """
import os
from kernels import scaled
from pipelines.system import kernel_cache
for factor in map(int, os.environ["FACTORS"].split()):
    print("scaled", kernel_cache.compiled(scaled.scaled, ("kernels.scaled",), (1,), constants={"FACTOR": factor})(10))
print("own", scaled.FACTOR, scaled.times_factor(3))
"""
PROGRAM = """
import logging
logging.basicConfig(level=logging.INFO)
from pipelines.system import kernel_cache
modules = ("kernels.whole", "kernels.part")
print("kept", kernel_cache.is_kept(modules))
from kernels import whole
print("from", whole.__file__)
print("computed", kernel_cache.compiled(whole.six_times, modules, (1,))(7))
"""
LIBSVM = """
from pipelines.data.formats import libsvm, libsvm_compiled
from pipelines.data.formats.libsvm_line import Rules
rules = Rules(shape=(3,), value_range=(0.0, 1.0), labels=(0, 1))
print("can", libsvm_compiled.can_parse(rules))
libsvm._arrays.spent = 100
print("read", libsvm.parse(b"1 2:0.5\\n", rules).inputs.tolist())
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with a package that has a function to compile."""
    folder = tmp_path_factory.mktemp("package") / "kernels"
    folder.mkdir()
    for name, content in (("__init__", ""), ("whole", KERNEL), ("part", PART), ("scaled", SCALED)):
        (folder / f"{name}.py").write_text(content)
    return folder.parent


@pytest.fixture(scope="module")
def warm(package, tmp_path_factory):
    """A cache that a process has filled."""
    folder = tmp_path_factory.mktemp("warm")
    output = compute(folder, package)
    assert "kept False" in output
    assert saved(output)
    return folder


def compute(cache, path, **variables):
    """The output of a process that compiles the function or loads it."""
    output = run(PROGRAM, cache, path, **variables)
    assert "computed 42" in output
    return output


def run(program, cache, path, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    own = {"CONVOY_CACHE": str(cache), "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "NUMBA_DEBUG_CACHE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd="/", env=kept | own | variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def saved(output):
    return "data saved to" in output


def loaded(output):
    return "data loaded from" in output and not saved(output)


def test_a_second_process_loads_what_the_first_has_compiled(warm, package):
    output = compute(warm, package)
    assert "kept True" in output
    assert loaded(output)
    assert stat.S_IMODE((warm / "compiled").stat().st_mode) == 0o700


def test_functions_are_kept_for_each_value_of_a_constant(package, tmp_path):
    for is_first in (True, False):
        output = run(WITH_CONSTANTS, tmp_path / "cache", package, FACTORS="2 5")
        assert [line for line in output.splitlines() if line.startswith(("scaled", "own"))] == [
            "scaled 288",
            "scaled 720",
            "own 0 0",
        ]
        assert (saved(output), loaded(output)) == (is_first, not is_first)


def test_what_processes_have_compiled_for_one_constant_each_is_not_confused_by_one_that_loads_both(package, tmp_path):
    for factors, expected in (("2", ["scaled 288"]), ("5", ["scaled 720"]), ("5 2", ["scaled 720", "scaled 288"])):
        output = run(WITH_CONSTANTS, tmp_path / "cache", package, FACTORS=factors)
        assert [line for line in output.splitlines() if line.startswith("scaled")] == expected
    assert loaded(output)


def test_a_package_in_an_archive_and_one_that_is_read_only_use_the_same_cache(warm, package, tmp_path):
    with zipfile.ZipFile(tmp_path / "kernels.zip", "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, file.relative_to(package))
    output = compute(warm, tmp_path / "kernels.zip")
    assert "from " + str(tmp_path / "kernels.zip") in output
    assert loaded(output)
    installed = tmp_path / "installed"
    shutil.copytree(package, installed, ignore=shutil.ignore_patterns("__pycache__"))
    (installed / "kernels").chmod(0o500)
    output = compute(warm, installed, PYTHONDONTWRITEBYTECODE="1")
    assert f"from {installed}" in output
    assert loaded(output)
    assert not list(installed.rglob("*.nb?"))


def test_the_folder_that_the_user_has_set_for_numba_is_used(package, tmp_path):
    assert saved(compute(tmp_path / "unused", package, NUMBA_CACHE_DIR=str(tmp_path / "own")))
    output = compute(tmp_path / "unused", package, NUMBA_CACHE_DIR=str(tmp_path / "own"))
    assert "kept True" in output
    assert loaded(output)
    assert not (tmp_path / "unused").exists()


def test_a_change_in_any_of_the_modules_ends_the_use_of_what_was_compiled(warm, package, tmp_path):
    shutil.copytree(package, tmp_path / "changed")
    (tmp_path / "changed/kernels/part.py").write_text(PART.replace("3 * x", "(2 + 1) * x"))
    output = compute(warm, tmp_path / "changed")
    assert "kept False" in output
    assert saved(output)


def test_a_damaged_cache_costs_time_alone(package, tmp_path):
    compute(tmp_path / "cache", package)
    for ending in (".nbi", ".nbc", ".sha256"):
        for damaged in (lambda content: content[:50], lambda content: bytes([*content[:-9], content[-9] ^ 4, *content[-8:]])):
            for file in (tmp_path / "cache").rglob(f"*{ending}"):
                file.write_bytes(damaged(file.read_bytes()))
            output = compute(tmp_path / "cache", package)
            assert "is damaged" in output
            assert saved(output)
    assert loaded(compute(tmp_path / "cache", package))


def test_what_others_could_have_written_is_not_loaded(package, tmp_path):
    cache, temporary = tmp_path / "cache", tmp_path / f"convoy-compiled-{os.geteuid()}"
    (cache / "compiled").mkdir(parents=True)
    (cache / "compiled").chmod(0o777)
    output = compute(cache, package, TMPDIR=str(tmp_path))
    assert "others can write to it" in output
    assert f"data saved to '{temporary}" in output
    assert loaded(compute(cache, package, TMPDIR=str(tmp_path)))
    temporary.rename(tmp_path / "moved")
    temporary.symlink_to(tmp_path / "moved")
    output = compute(cache, package, TMPDIR=str(tmp_path))
    assert "functions are not kept" in output
    assert not saved(output)


def test_without_a_place_to_keep_it_each_process_compiles(package, tmp_path):
    for file in (tmp_path / "cache", tmp_path / f"convoy-compiled-{os.geteuid()}"):
        file.touch()
    output = compute(tmp_path / "cache", package, TMPDIR=str(tmp_path))
    assert not saved(output)


def test_the_parser_of_libsvm_text_is_kept(tmp_path):
    outputs = [run(LIBSVM, tmp_path, ROOT) for _ in range(2)]
    for output in outputs:
        assert "can True" in output
        assert "read [[0.0, 0.5, 0.0]]" in output
    assert saved(outputs[0])
    assert loaded(outputs[1])


@pytest.mark.parametrize(
    ("module", "variables"),
    [("numba.py", {}), ("llvmlite.py", {}), ("", {"NUMBA_DISABLE_JIT": "1"})],
    ids=["a Numba that does not fit", "a broken llvmlite", "disabled"],
)
def test_with_a_numba_that_does_not_work_text_is_read_with_arrays(tmp_path, module, variables):
    if module:
        (tmp_path / module).write_text("raise ImportError('needs NumPy 1.2 or less')")
    output = run(LIBSVM, tmp_path / "cache", tmp_path, **variables)
    assert "can False" in output
    assert "read [[0.0, 0.5, 0.0]]" in output


def test_without_numba_text_is_read_with_arrays(tmp_path):
    output = run(f"import sys\nsys.modules['numba'] = None\n{LIBSVM}", tmp_path, ROOT)
    assert "can False" in output
    assert "read [[0.0, 0.5, 0.0]]" in output
