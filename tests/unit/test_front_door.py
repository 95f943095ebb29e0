import importlib.machinery
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
def clone(tmp_path, monkeypatch):
    """As much of the repository as the set-up reads."""
    # These tests are about the set-up of the default, whichever runtime they run on.
    monkeypatch.delenv("CONVOY_RUNTIME", raising=False)
    for name in ("convoy", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    for name in ("constraints", "spark"):
        shutil.copytree(ROOT / "conf" / name, tmp_path / "conf" / name)
    return tmp_path


@pytest.fixture
def door(clone):
    return load_front_door(clone / "convoy")


def interpreter(folder, name, answer, code=0):
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    file.chmod(0o755)
    return str(file)


def finish_set_up(door):
    """What a finished set-up leaves for the check."""
    java = door.VENV / "java/bin/java"
    for program in (door.VENV / "bin/python", java):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    door.READY.write_text(json.dumps({"digest": door.digest(), "java_home": str(door.VENV / "java")}))


def run(script, *arguments, **variables):
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables})


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
        "help",
    ):
        assert f"./convoy {command}" in shown.stdout


def test_train_becomes_spark_submit_and_says_when_so_that_set_up_does_not_count(door, clone):
    finish_set_up(door)
    submit = door.VENV / "bin/spark-submit"
    submit.write_text('#!/bin/sh\necho "$CONVOY_SUBMITTED_AT $@"\nexit 7\n')
    submit.chmod(0o755)
    started = time.time()
    (door.VENV / "lib/python3.11/site-packages").mkdir(parents=True)
    shown = run(clone / "convoy", "train", "--workers", "2")
    assert shown.returncode == 7, shown.stderr
    told, *arguments = shown.stdout.splitlines()[-1].split()
    assert arguments[1:] == ["--workers", "2"]
    assert arguments[0].endswith("jobs/train_cnn.py")
    assert started <= float(told) <= time.time()


def test_a_command_is_shown_without_the_passwords_in_its_addresses(door):
    shown = door.without_passwords("mlflow server --backend-store-uri postgresql://ann:s3cret@db/mlflow --port 5000")
    assert shown == "mlflow server --backend-store-uri postgresql://***@db/mlflow --port 5000"


def test_an_unknown_command_is_one_line_and_exit_code_2():
    shown = run(ROOT / "convoy", "trian")
    assert shown.returncode == 2
    assert shown.stderr.splitlines() == ["convoy: there is no command 'trian'; ./convoy help lists them"]


def test_an_interpreter_that_exists_but_fails_when_run_is_passed_over(door, tmp_path):
    shim = interpreter(tmp_path, "python3.11", "command not found", code=127)
    good = interpreter(tmp_path, "python3", "3.11 1 /opt/python3.11")
    assert door.find_python([shim, str(tmp_path / "absent"), good]) == ("/opt/python3.11", "3.11", True)


def test_3_11_is_preferred_and_one_that_can_make_environments_before_one_that_cannot(door, tmp_path):
    ten = interpreter(tmp_path, "ten", "3.10 1 /a/python3.10")
    eleven = interpreter(tmp_path, "eleven", "3.11 1 /a/python3.11")
    bare = interpreter(tmp_path, "bare", "3.11 0 /usr/bin/python3.11")
    assert door.find_python([ten, eleven])[0] == "/a/python3.11"
    assert door.find_python([bare, ten])[0] == "/a/python3.10"
    assert door.find_python([bare]) == ("/usr/bin/python3.11", "3.11", False)


def test_no_suitable_python_is_one_clear_line(door, tmp_path):
    newer = interpreter(tmp_path, "python3", "3.13 1 /usr/bin/python3.13")
    with pytest.raises(door.SetupError, match=r"^Python 3\.11 or 3\.10 is needed and not found; install it \(.*\)$"):
        door.find_python([newer])


def test_this_interpreter_is_found_for_real(door):
    _, version, _ = door.find_python([sys.executable])
    assert version == f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize("answer", ['openjdk version "21.0.1" 2023-10-17', 'java version "1.8.0_412"', "nonsense"])
def test_a_java_that_does_not_suit_is_not_taken(door, tmp_path, monkeypatch, answer):
    (tmp_path / "jdk/bin").mkdir(parents=True)
    interpreter(tmp_path / "jdk/bin", "java", "")
    (tmp_path / "jdk/bin/java").write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert door.find_java() is None


def test_a_java_17_from_java_home_is_taken(door, tmp_path, monkeypatch):
    (tmp_path / "jdk/bin").mkdir(parents=True)
    interpreter(tmp_path / "jdk/bin", "java", "")
    (tmp_path / "jdk/bin/java").write_text("#!/bin/sh\necho 'openjdk version \"17.0.9\" 2023-10-17' >&2\n")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert door.find_java() == str(tmp_path / "jdk")


def test_a_finished_set_up_is_recognised_and_any_changed_input_ends_that(door, clone):
    assert door.ready() is None
    finish_set_up(door)
    assert door.ready() == str(door.VENV / "java")
    for name in ("convoy", "pyproject.toml", "conf/constraints/local.lock", "conf/spark/spark-defaults.conf"):
        before = (clone / name).read_bytes()
        (clone / name).write_bytes(before + b"\n")
        assert door.ready() is None, name
        (clone / name).write_bytes(before)
    assert door.ready() is not None


def test_a_set_up_whose_python_or_java_has_gone_is_not_ready(door):
    finish_set_up(door)
    (door.VENV / "java/bin/java").unlink()
    assert door.ready() is None
    finish_set_up(door)
    (door.VENV / "bin/python").unlink()
    assert door.ready() is None


def test_a_torn_stamp_is_not_ready(door):
    finish_set_up(door)
    door.READY.write_text('{"digest": "')
    assert door.ready() is None


def test_a_moved_clone_is_not_ready(door, clone):
    finish_set_up(door)
    moved = clone.parent / (clone.name + "-moved")
    clone.rename(moved)
    assert load_front_door(moved / "convoy").ready() is None


def test_a_second_set_up_waits_for_the_first(door, clone):
    lock = clone / ".convoy-setup.lock"
    holder = (
        "import fcntl, sys, time\n"
        f"lock = open({str(lock)!r}, 'w'); fcntl.flock(lock, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    second = subprocess.Popen([sys.executable, str(clone / "convoy"), "setup"], stdout=subprocess.PIPE, text=True)
    try:
        assert "another set-up of this clone is running" in second.stdout.readline()
        assert not (clone / ".venv").exists()
    finally:
        second.kill()
        second.communicate(timeout=30)
        first.kill()
        first.communicate(timeout=30)


def test_killing_the_set_up_ends_the_installer_it_runs(door, clone, tmp_path):
    """An orphan would go on writing to .venv while the next set-up rebuilds it."""
    child = tmp_path / "child"
    script = (
        f"import sys; sys.argv = ['convoy']; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_front_door as t\n"
        f"door = t.load_front_door({str(clone / 'convoy')!r})\n"
        f"with door.exclusive(door.ROOT / '.convoy-setup.lock', '') as lock:\n"
        f"    door.Builder(lock).step('sleep', ['sh', '-c', 'echo $$ > {child}; exec sleep 60'])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (child.exists() and child.read_text().strip()):
        assert time.monotonic() < deadline, "the step did not start"
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=30)
    pid = int(child.read_text())
    while alive(pid):
        assert time.monotonic() < deadline, "the installer outlived the set-up"
        time.sleep(0.02)


def alive(pid):
    """A zombie that nobody has collected yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failed_step_shows_the_end_of_the_log_and_where_it_lies(door):
    with door.exclusive(door.ROOT / ".convoy-setup.lock", "") as lock:
        with pytest.raises(door.SetupError) as failure:
            door.Builder(lock).step("compiling", ["sh", "-c", "echo no such header; exit 3"])
    assert "'compiling' failed with exit code 3" in str(failure.value)
    assert "no such header" in str(failure.value)
    assert str(door.LOG) in str(failure.value)


def test_a_missing_compiler_is_one_line_where_nothing_can_be_installed(door, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "empty"))
    with pytest.raises(door.SetupError) as failure:
        door.Builder(0).wheel_or_compiler("3.11")
    assert str(failure.value) == (
        "g++ make is missing (to compile Horovod); install it (apt-get install g++ make), then run ./convoy again"
    )


def test_a_cached_horovod_needs_no_compiler(door, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    builder = door.Builder(0)
    folder = builder.wheel_folder("3.11")
    folder.mkdir(parents=True)
    (folder / "horovod.whl").touch()
    builder.wheel_or_compiler("3.11")
    assert "cp311" in folder.name
    assert "tf2.18.1" in folder.name


def test_pip_settings_become_uv_settings_and_the_environment_wins(door):
    settings = door.uv_settings(
        "global.index-url='https://files.example/simple'\n"
        "global.extra-index-url='https://more.example/simple file:///srv/simple'\n"
        ":env:.index-url='https://env.example/simple'\n"
        "global.cert='/etc/ca.pem'\n"
    )
    assert settings["UV_DEFAULT_INDEX"] == "https://env.example/simple"
    assert settings["UV_INDEX"] == "https://more.example/simple"
    assert settings["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert "UV_DEFAULT_INDEX" not in door.uv_settings("")


def test_the_lock_pins_by_hash_and_holds_no_address_and_no_torch(door):
    lock = door.LOCAL_LOCK.read_text()
    block = door.locked_block(lock, "uv")
    assert block.startswith("uv==")
    assert "--hash=sha256:" in block
    assert "uvicorn" not in block
    for unwanted in ("://", "\ntorch", "nvidia"):
        assert unwanted not in lock


def test_the_page_of_mlflow_takes_another_port_when_the_usual_one_is_taken(door):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        assert door.free_port(wanted) != wanted


def test_programs_of_the_project_see_its_environment_and_may_write_bytecode(door, monkeypatch):
    (door.VENV / "lib/python3.11/site-packages").mkdir(parents=True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("SPARK_CONF_DIR", "/elsewhere")
    variables = door.environment("/opt/java")
    assert variables["PATH"].split(os.pathsep)[0] == str(door.VENV / "bin")
    assert variables["JAVA_HOME"] == "/opt/java"
    assert variables["CONVOY_HOME"] == str(door.ROOT)
    assert not {"PYTHONDONTWRITEBYTECODE", "SPARK_CONF_DIR"} & set(variables)


def test_the_spark_files_are_replaced_and_never_written_through_a_link(door, tmp_path):
    """uv links installed files to its cache; writing into one would change it for every clone."""
    cached = tmp_path / "cached-spark-submit"
    cached.write_text("the one of the package")
    (door.VENV / "bin").mkdir(parents=True)
    (door.VENV / "lib/python3.11/site-packages/pyspark").mkdir(parents=True)
    os.link(cached, door.VENV / "bin/spark-submit")
    door.write_spark_conf("/opt/java home")
    assert cached.read_text() == "the one of the package"
    assert os.access(door.VENV / "bin/spark-submit", os.X_OK)
    conf = door.VENV / "lib/python3.11/site-packages/pyspark/conf"
    assert f"{door.ROOT}/runs/spark.log" in (conf / "log4j2.properties").read_text()
    shown = subprocess.run(
        ["bash", "-c", f". {conf}/spark-env.sh; echo $JAVA_HOME:$CONVOY_HOME"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": os.environ["PATH"], "CONVOY_HOME": "/mine"},
    )
    assert shown.stdout.strip() == "/opt/java home:/mine"


def started(door, **variables):
    """What the environment's `spark-submit` hands to Spark's: its own path of settings, the options of Java, the arguments."""
    spark = door.VENV / "lib/python3.11/site-packages/pyspark"
    (spark / "bin").mkdir(parents=True, exist_ok=True)
    (door.VENV / "bin").mkdir(parents=True, exist_ok=True)
    (spark / "bin/spark-submit").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$SPARK_CONF_DIR" "$SPARK_SUBMIT_OPTS" "$CONVOY_HOME" "$@"\n'
    )
    (spark / "bin/spark-submit").chmod(0o755)
    door.write_spark_conf("/opt/java home")
    done = subprocess.run(
        [str(door.VENV / "bin/spark-submit"), "a job.py", "--workers", "2"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


def test_spark_starts_with_the_settings_of_the_project_and_the_archive_of_its_classes(door):
    spark = door.VENV / "lib/python3.11/site-packages/pyspark"
    given = ["--properties-file", f"{spark}/conf/spark-defaults.conf", "a job.py", "--workers", "2"]
    logging = f'-Dlog4j2.configurationFile="{spark}/conf/log4j2.properties"'
    empty = door.VENV / "no-spark-conf"
    assert started(door) == [str(empty), f"{logging} ", str(door.ROOT), *given]
    assert list(empty.iterdir()) == []
    archive = door.VENV / door.CLASSES
    archive.touch()
    options = f'-XX:SharedArchiveFile="{archive}" -Xlog:cds*=off {logging} -Dmine=1'
    assert started(door, SPARK_SUBMIT_OPTS="-Dmine=1", CONVOY_HOME="/mine") == [str(empty), options, "/mine", *given]
    # A job that submits another.
    assert started(door, SPARK_CONF_DIR=str(empty))[3:] == given


def test_an_archive_of_classes_that_cannot_be_made_is_told_and_hinders_nothing(door, tmp_path, capsys):
    (door.VENV / "bin").mkdir(parents=True)
    (door.VENV / "lib/python3.11/site-packages/pyspark/jars").mkdir(parents=True)
    (tmp_path / "java/bin").mkdir(parents=True)
    for program in (door.VENV / "bin/spark-submit", tmp_path / "java/bin/java"):
        program.write_text("#!/bin/sh\necho Unrecognized VM option; exit 1\n")
        program.chmod(0o755)
    (door.VENV / door.CLASSES).write_text("of another Java")
    with (tmp_path / "lock").open("w") as lock:
        door.Builder(lock.fileno()).archive_classes(str(tmp_path / "java"))
    assert f"it was not made ({door.LOG} says why)" in capsys.readouterr().out
    assert "Unrecognized VM option" in door.LOG.read_text()
    assert not (door.VENV / door.CLASSES).exists()


def test_a_folder_of_settings_of_the_users_own_is_left_to_spark(door):
    assert started(door, SPARK_CONF_DIR="/mine", CONVOY_HOME="/home") == ["/mine", "", "/home", "a job.py", "--workers", "2"]


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ([], True),
        (["-x", "-q"], True),
        (["tests/e2e/test_jobs.py"], True),
        (["-m", "e2e"], True),
        (["-m", "unit"], False),
        (["-m", "not e2e"], False),
        (["tests/unit"], False),
    ],
)
def test_a_browser_is_installed_only_for_tests_that_look_at_pages(door, options, looks):
    assert door.looks_at_pages(options) == looks


def test_what_a_server_has_started_ends_with_it(door):
    server = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child = int(server.stdout.readline())
    door.end_session(server)
    assert server.returncode is not None
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/status").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_another_runtime_has_an_environment_and_a_lock_of_its_own(clone, monkeypatch):
    monkeypatch.setenv("CONVOY_RUNTIME", "dbr-15.4-ml")
    door = load_front_door(clone / "convoy")
    assert door.VENV == clone / ".venv-dbr-15.4-ml"
    assert "\ntensorflow==2.16.1 " in door.LOCAL_LOCK.read_text()
    assert door.Builder(0).wheel_folder("3.11").name.startswith("horovod-0.28.1-cp311-tf2.16.1-")


def test_a_runtime_without_a_lock_is_refused_and_the_known_ones_are_named(clone):
    done = run(clone / "convoy", "setup", CONVOY_RUNTIME="dbr-1")
    assert done.returncode == 1
    assert done.stderr == "convoy: CONVOY_RUNTIME=dbr-1: must be one of dbr-15.4-ml, local\n"
