"""The script `convoy`: its commands, from the outside."""

import ast
import importlib.machinery
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.clones import ROOT, copy_clone, finish_set_up

from tools import mlflow_page
from tools.setup.programs import looks_at_pages


@pytest.fixture
def clone(tmp_path, monkeypatch):
    # These tests are about the set-up of the default, whichever runtime they run on.
    monkeypatch.delenv("CONVOY_RUNTIME", raising=False)
    return copy_clone(tmp_path)


def load_front_door(script):
    """The script as a module; it has no .py to its name."""
    loader = importlib.machinery.SourceFileLoader("front_door", str(script))
    spec = importlib.util.spec_from_loader("front_door", loader)
    module = importlib.util.module_from_spec(spec)
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


@pytest.fixture
def door():
    return load_front_door(ROOT / "convoy")


def run(script, *arguments, **variables):
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables})


@pytest.mark.parametrize(
    "name", ["{x}", "50%", "a:b", "a;b", "a#b", 'a"b', "a\\b", "$HOME", "a`b", "a[1]", "a*b", "a\nb", b"Z\xfcrich"]
)
def test_a_folder_in_which_no_environment_works_is_refused_in_one_line(tmp_path, tmp_path_factory, clone, name):
    moved = tmp_path_factory.mktemp("moved") / os.fsdecode(name)
    tmp_path.rename(moved)
    shown = run(moved / "convoy", "train")
    (line,) = shown.stderr.splitlines()
    assert shown.returncode == 1
    assert line.startswith(f"convoy: {moved.parent}/")
    assert line.endswith(", and move the clone there")
    assert not (moved / ".venv").exists()


def test_a_cache_in_which_no_environment_works_is_refused_in_one_line(clone, tmp_path):
    shown = run(tmp_path / "convoy", "setup", CONVOY_CACHE=f"{tmp_path}/a[1]")
    assert shown.returncode == 1
    reason = "contains '[', and its environment would not work there; use another folder, and set CONVOY_CACHE to it"
    assert shown.stderr == f"convoy: {tmp_path}/a[1]: {reason}\n"


def test_help_names_every_command():
    shown = run(ROOT / "convoy", "help")
    assert shown.returncode == 0
    for command in (
        "train",
        "predict",
        "evaluate|score|promote",
        "submit",
        "test",
        "setup",
        "runs",
        "replay",
        "labs",
        "doctor",
        "ui",
        "bench",
        "canary",
        "schema",
        "completion",
        "help",
    ):
        assert f"./convoy {command}" in shown.stdout


@pytest.mark.parametrize("name", ["predict", "runs", "replay", "doctor", "submit", "labs", "canary", "schema"])
def test_a_command_finds_its_modules_from_a_folder_outside_the_clone_as_well(door, name, tmp_path):
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *door.PROGRAMS[name], "--help"]
    folder = ROOT if name in door.IN_ROOT else tmp_path
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_train_becomes_spark_submit_and_says_when_so_that_set_up_does_not_count(clone):
    finish_set_up(clone)
    submit = clone.venv / "bin/spark-submit"
    submit.write_text('#!/bin/sh\necho "$CONVOY_SUBMITTED_AT $@"\nexit 7\n')
    submit.chmod(0o755)
    started = time.time()
    shown = run(clone.root / "convoy", "train", "--workers", "2")
    assert shown.returncode == 7, shown.stderr
    told, *arguments = shown.stdout.splitlines()[-1].split()
    assert arguments[1:] == ["--workers", "2"]
    assert arguments[0].endswith("jobs/train_cnn.py")
    assert started <= float(told) <= time.time()


def test_a_command_starts_in_repaired_surroundings_and_says_what_it_leaves_out(clone, tmp_path):
    finish_set_up(clone)
    submit = clone.venv / "bin/spark-submit"
    submit.write_text(
        '#!/bin/sh\necho "<$LC_ALL> <$KERAS_BACKEND> <${PYTHONPATH:-}> <${PYTHONWARNINGS:-}> <${PYTHONSAFEPATH:-}>"\n'
    )
    submit.chmod(0o755)
    (clone.venv / "bin/python").unlink()
    (clone.venv / "bin/python").symlink_to(submit)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/numpy.py").touch()
    (clone.site_packages / "numpy").mkdir()
    (clone.site_packages / "numpy/__init__.py").touch()
    hostile = {"LC_ALL": "C", "KERAS_BACKEND": "jax", "PYTHONWARNINGS": "error", "PYTHONPATH": str(tmp_path / "other")}
    for command, safe in (("train", ""), ("predict", "1"), ("bench", "")):
        done = run(clone.root / "convoy", command, **hostile)
        assert done.stdout.splitlines()[-1] == f"<C.UTF-8> <tensorflow> <> <> <{safe}>"
        left_out = f"convoy: PYTHONPATH: {tmp_path / 'other'} is left out, because it would replace numpy of Convoy's environment"
        assert done.stderr.splitlines() == [left_out]


def test_a_working_directory_that_has_gone_is_one_line(tmp_path):
    command = ["sh", "-c", f'cd {tmp_path}; rmdir {tmp_path}; exec "$@"', "sh", sys.executable, str(ROOT / "convoy"), "runs"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[-1] == "convoy: the working directory no longer exists; change to one that does"


def test_with_spark_connect_train_needs_no_spark_submit(clone):
    finish_set_up(clone)
    shown = run(clone.root / "convoy", "train", "--workers", "2", SPARK_REMOTE="sc://head:15002")
    assert shown.stdout.splitlines()[-1] == f"convoy: $ python {clone.root}/jobs/train_cnn.py --workers 2"


def test_a_command_is_shown_without_the_passwords_in_its_addresses(door):
    shown = door.without_passwords("mlflow server --backend-store-uri postgresql://ann:s3cret@db/mlflow --port 5000")
    assert shown == "mlflow server --backend-store-uri postgresql://***@db/mlflow --port 5000"


def test_a_command_is_shown_without_the_credentials_in_its_options(clone):
    finish_set_up(clone)
    submit = clone.venv / "bin/spark-submit"
    submit.write_text("#!/bin/sh\nexit 0\n")
    submit.chmod(0o755)
    shown = run(
        clone.root / "convoy",
        "train",
        "--set",
        "tracking.uri=http://u:p'l/planted@h",
        "--data",
        "a planted",
        PGPASSWORD="planted",
    )
    assert "planted" not in shown.stdout + shown.stderr
    assert "jobs/train_cnn.py --set 'tracking.uri=http://***@h' --data 'a ***'" in shown.stdout


def test_an_unknown_command_is_one_line_and_exit_code_2():
    shown = run(ROOT / "convoy", "trian")
    assert shown.returncode == 2
    assert shown.stderr.splitlines() == ["convoy: there is no command 'trian'; ./convoy help lists them"]


def test_a_second_set_up_waits_for_the_first(clone):
    lock = clone.setup_lock
    holder = (
        "import fcntl, sys, time\n"
        f"lock = open({str(lock)!r}, 'w'); fcntl.flock(lock, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    second = subprocess.Popen([sys.executable, str(clone.root / "convoy"), "setup"], stdout=subprocess.PIPE, text=True)
    try:
        assert "another set-up of this clone is running" in second.stdout.readline()
        assert not clone.venv.exists()
    finally:
        second.kill()
        second.communicate(timeout=30)
        first.kill()
        first.communicate(timeout=30)


def test_the_page_of_mlflow_takes_another_port_when_the_usual_one_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        assert mlflow_page.free_port(wanted) != wanted


def test_two_pages_that_start_at_the_same_time_get_ports_of_their_own():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        wanted = free.getsockname()[1]
    assert mlflow_page.free_port(wanted) == wanted
    # Its server does not listen yet.
    assert mlflow_page.free_port(wanted) != wanted


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ([], True),
        (["-x", "-q"], True),
        (["tests/e2e/test_jobs.py"], True),
        (["-m", "e2e"], True),
        (["-m", "unit"], False),
        (["-m", "not e2e"], False),
        (["--quick"], False),
        (["tests/unit"], False),
    ],
)
def test_a_browser_is_installed_only_for_tests_that_look_at_pages(options, looks):
    assert looks_at_pages(options) == looks


def test_what_a_server_has_started_ends_with_it():
    server = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child = int(server.stdout.readline())
    mlflow_page.end_session(server)
    assert server.returncode is not None
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/status").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_runtime_without_a_lock_is_refused_and_the_known_ones_are_named(clone):
    # Of a canary that runs these tests.
    (clone.root / "conf/constraints/canary.lock").unlink(missing_ok=True)
    done = run(clone.root / "convoy", "setup", CONVOY_RUNTIME="dbr-1")
    assert done.returncode == 1
    known = "dbr-15.4-ml, dbr-16.4-ml, dbr-17.3-ml, dbr-18-ml, dbr-19-ml, local"
    assert done.stderr == f"convoy: CONVOY_RUNTIME=dbr-1: must be one of {known}\n"


def test_the_front_door_and_its_set_up_are_written_for_python_3_8():
    """It runs under whatever Python the machine has."""
    masking = (ROOT / "pipelines/system").glob("secret*.py")
    variables = (ROOT / "pipelines/system" / name for name in ("surroundings.py", "keras_settings.py", "python_path.py"))
    for file in (ROOT / "convoy", ROOT / "tools/mlflow_page.py", *(ROOT / "tools/setup").glob("*.py"), *masking, *variables):
        ast.parse(file.read_text(), str(file), feature_version=(3, 8))


def test_what_the_front_door_loads_evaluates_no_annotation_that_python_3_8_lacks(tmp_path):
    code = (
        f"import runpy, sys; sys.argv = ['convoy', 'help']; runpy.run_path({str(ROOT / 'convoy')!r}, run_name='__main__')\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.startswith(('pipelines', 'tools'))), sep='\\n')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    loaded = [Path(line) for line in shown.stdout.splitlines() if line.endswith(".py")]
    assert ROOT / "pipelines/moved.py" in loaded
    for file in loaded:
        tree = ast.parse(file.read_text(), str(file), feature_version=(3, 8))
        postponed = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        annotated = [node for node in functions if node.returns or any(argument.annotation for argument in node.args.args)]
        assert postponed or not annotated, f"{file}: needs 'from __future__ import annotations'"
