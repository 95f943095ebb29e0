"""The set-up behind `convoy`, step by step, on a copy of as much of the repository as it reads."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from support.clones import ROOT, copy_clone, finish_set_up
from support.disk_faults import fill, small_disk

from tools.setup import environment, horovod, integrity, java, python, steps
from tools.setup.clone import Clone, SetupError, locked_block, locked_version
from tools.setup.spark import environment as program_environment
from tools.setup.spark import run_environment, write_spark_conf


@pytest.fixture
def clone(tmp_path, monkeypatch):
    # These tests are about the set-up of the default, whichever runtime they run on.
    monkeypatch.delenv("CONVOY_RUNTIME", raising=False)
    return copy_clone(tmp_path)


def interpreter(folder, name, answer, code=0):
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    file.chmod(0o755)
    return str(file)


def alive(pid):
    """A zombie that nobody has collected yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_spark_gets_its_java_without_the_module_that_not_every_java_has(clone, tmp_path):
    home = tmp_path / "java home"
    (home / "bin").mkdir(parents=True)
    (clone.venv / "bin").mkdir(parents=True)
    (clone.venv / "lib/python3.11/site-packages/pyspark").mkdir(parents=True)
    (home / "bin/java").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (home / "bin/java").chmod(0o755)
    write_spark_conf(clone, str(home))
    given = ["-cp", "a b", "--add-modules=jdk.incubator.vector", "--add-opens=x", "", "org.Main"]
    program = program_environment(clone)["JAVA_HOME"] + "/bin/java"
    shown = subprocess.run([program, *given], capture_output=True, text=True, timeout=30, check=True).stdout
    assert shown.split("\n")[:-1] == ["-cp", "a b", "--add-opens=x", "", "org.Main"]


def started(clone, **variables):
    """What the environment's `spark-submit` hands to Spark's: its own path of settings, the options of Java, the arguments."""
    spark = clone.venv / "lib/python3.11/site-packages/pyspark"
    (spark / "bin").mkdir(parents=True, exist_ok=True)
    (clone.venv / "bin").mkdir(parents=True, exist_ok=True)
    (spark / "bin/spark-submit").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$SPARK_CONF_DIR" "$SPARK_SUBMIT_OPTS" "$CONVOY_HOME" "$@"\n'
    )
    (spark / "bin/spark-submit").chmod(0o755)
    write_spark_conf(clone, "/opt/java home")
    if not clone.python.exists():
        clone.python.symlink_to(sys.executable)
    done = subprocess.run(
        [str(clone.venv / "bin/spark-submit"), "a job.py", "--workers", "2"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


VERSIONS = ("3.13", "3.12", "3.11", "3.10")


def test_an_interpreter_that_exists_but_fails_when_run_is_passed_over(tmp_path):
    shim = interpreter(tmp_path, "python3.11", "command not found", code=127)
    good = interpreter(tmp_path, "python3", "3.11 1 /opt/python3.11")
    assert python.best([shim, str(tmp_path / "absent"), good], VERSIONS) == ("/opt/python3.11", "3.11", True)


def test_the_newest_is_preferred_and_one_that_can_make_environments_before_one_that_cannot(tmp_path):
    ten = interpreter(tmp_path, "ten", "3.10 1 /a/python3.10")
    thirteen = interpreter(tmp_path, "thirteen", "3.13 1 /a/python3.13")
    bare = interpreter(tmp_path, "bare", "3.13 0 /usr/bin/python3.13")
    assert python.best([ten, thirteen], VERSIONS).path == "/a/python3.13"
    assert python.best([bare, ten], VERSIONS).path == "/a/python3.10"
    assert python.best([bare], VERSIONS) == ("/usr/bin/python3.13", "3.13", False)


def test_a_runtime_takes_its_own_python_alone(clone, tmp_path):
    newer = interpreter(tmp_path, "python3", "3.13 1 /usr/bin/python3.13")
    assert Clone(clone.root, "dbr-15.4-ml").pythons == ("3.11",)
    assert python.best([newer], Clone(clone.root, "dbr-15.4-ml").pythons) is None


def programs(folder, monkeypatch, **scripts):
    """The only programs that the set-up finds; no Python among them."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        file = folder / name.replace("_", "-")
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(python, "candidates", lambda versions: [])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


NEEDED = "Python 3.13 or 3.12 or 3.11 or 3.10 is needed but was not found"


def test_without_a_fitting_python_the_one_that_this_systems_apt_has_is_named(clone, tmp_path, monkeypatch):
    programs(tmp_path / "bin", monkeypatch, apt_cache="echo 'python3.9 - Interactive'; echo 'python3.12 - Interactive'")
    with pytest.raises(SetupError) as failure:
        python.find_python(steps.Steps(clone, 0))
    assert str(failure.value) == (
        f"python3.12 python3.12-venv is missing ({NEEDED}); "
        "install it (apt-get install python3.12 python3.12-venv), then run ./convoy again"
    )


@pytest.mark.parametrize("has_uv", [True, False])
def test_where_the_package_manager_has_none_uv_is_asked_for_one_of_its_own(clone, tmp_path, monkeypatch, capsys, has_uv):
    """Here it cannot. Without a uv the pip of the Python at hand is asked for that first."""
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    asked = {"uv": 'echo "$@"; exit 4'} if has_uv else {}
    programs(tmp_path / "bin", monkeypatch, apt_cache="echo 'python3.9 - Interactive'", old='echo "$@"; exit 4', **asked)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/old"))
    with (tmp_path / "lock").open("w") as lock, pytest.raises(SetupError) as failure:
        python.find_python(steps.Steps(clone, lock.fileno()))
    first, *rest = str(failure.value).splitlines()
    assert first == "install Python 3.13 (https://docs.python.org/3/using/unix.html), then run ./convoy again"
    assert ("python install --install-dir" if has_uv else "-m pip") in "\n".join(rest)
    assert NEEDED in capsys.readouterr().out


# Creates what uv creates, a Python in a folder of its full version, which says what the set-up's probe asks.
FAKE_UV = """
PATH=/usr/bin:/bin
[ "$1 $2 $3" = "python install --install-dir" ] || exit 2
folder="$4/cpython-$5.7-linux-x86_64-gnu/bin"
mkdir -p "$folder"
printf '#!/bin/sh\\necho %s 1 %s\\n' "$5" "$folder/python$5" >"$folder/python$5"
chmod +x "$folder/python$5"
"""
# A pip whose package of uv is the one above.
FAKE_PIP = """
PATH=/usr/bin:/bin
[ "$2" = pip ] || exit 2
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/bin"
cp "$0.uv" "$2/bin/uv"
"""


@pytest.mark.parametrize("has_uv", [True, False])
def test_the_python_that_uv_provides_is_the_one_of_the_environment(clone, tmp_path, monkeypatch, capsys, has_uv):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    real_candidates = python.candidates
    programs(tmp_path / "bin", monkeypatch, old=FAKE_PIP, **{"uv" if has_uv else "old.uv": FAKE_UV})
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/old"))
    # Of those of this machine none.
    monkeypatch.setattr(
        python, "candidates", lambda versions: [path for path in real_candidates(versions) if path.startswith(str(tmp_path))]
    )
    with steps.exclusive(clone.setup_lock, "") as lock:
        found = python.find_python(steps.Steps(clone, lock))
    path = tmp_path / "cache/python/cpython-3.13.7-linux-x86_64-gnu/bin/python3.13"
    assert found == python.Interpreter(str(path), "3.13", has_venv=True)
    shown = capsys.readouterr().out
    assert f"{NEEDED}, and this system's package manager does not offer it; downloading one with uv" in shown
    assert ("uv, the installer ..." in shown) == (not has_uv)


def test_this_interpreter_is_found_for_real():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert python.best([sys.executable], [version]).version == version


@pytest.mark.parametrize("answer", ['openjdk version "11.0.1" 2018-10-16', 'java version "1.8.0_412"', "nonsense"])
def test_a_java_that_does_not_suit_is_not_taken(clone, tmp_path, monkeypatch, answer):
    (tmp_path / "jdk/bin").mkdir(parents=True)
    interpreter(tmp_path / "jdk/bin", "java", "")
    (tmp_path / "jdk/bin/java").write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert java.find_java(clone) is None


@pytest.mark.parametrize(
    ("runtime", "version", "suits"),
    [
        ("local", "17.0", True),
        ("local", "21.0", True),
        ("local", "1.8", False),
        ("dbr-15.4-ml", "1.8", True),
        ("dbr-15.4-ml", "17.0", True),
        ("dbr-15.4-ml", "21.0", False),
    ],
)
def test_the_java_of_java_home_is_taken_where_the_locked_spark_runs_on_it(clone, tmp_path, monkeypatch, runtime, version, suits):
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    interpreter(home / "bin", "java", "")
    (home / "bin/java").write_text(f"#!/bin/sh\necho 'openjdk version \"{version}.9\" 2023-10-17' >&2\n")
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert java.find_java(Clone(clone.root, runtime)) == (str(home) if suits else None)


def test_a_finished_set_up_is_recognised_and_any_changed_input_ends_that(clone):
    assert environment.ready(clone) is None
    finish_set_up(clone)
    assert environment.ready(clone) == str(clone.venv / "java")
    for name in ("convoy", "pyproject.toml", "conf/constraints/local.lock", "conf/spark/spark-defaults.conf"):
        before = (clone.root / name).read_bytes()
        (clone.root / name).write_bytes(before + b"\n")
        assert environment.ready(clone) is None, name
        (clone.root / name).write_bytes(before)
    assert environment.ready(clone) is not None


def test_a_set_up_whose_python_or_java_has_gone_is_not_ready(clone):
    finish_set_up(clone)
    (clone.venv / "java/bin/java").unlink()
    assert environment.ready(clone) is None
    finish_set_up(clone)
    (clone.venv / "bin/python").unlink()
    assert environment.ready(clone) is None


class Killed(BaseException):
    pass


@pytest.mark.parametrize("has_environment", [True, False])
def test_a_set_up_that_is_killed_at_any_step_is_not_ready(clone, monkeypatch, has_environment):
    """The programs do nothing; what counts is when the set-up declares the environment ready."""
    began = []

    def run(self, what, command, extra=None, killable=True):
        assert environment.ready(clone) is None
        began.append(what)
        if len(began) > killed_after:
            raise Killed
        self.clone.venv.mkdir(exist_ok=True)

    monkeypatch.setattr(environment, "find_python", lambda steps: python.Interpreter(sys.executable, "3.11", True))
    monkeypatch.setattr(environment, "find_java", lambda clone: str(clone.venv / "java"))
    monkeypatch.setattr(environment, "wheel_or_compiler", lambda steps, version: None)
    monkeypatch.setattr(environment, "install_horovod", lambda steps, version: steps.run("Horovod", []))
    monkeypatch.setattr(environment, "write_spark_conf", lambda clone, java_home: finish_set_up(clone, stamp=False))
    monkeypatch.setattr(environment, "archive_classes", lambda steps, java_home: steps.run("archive", []))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    monkeypatch.setattr(steps.Steps, "run", run)
    steps_of_all = 6 if has_environment else 7
    for killed_after in range(steps_of_all):
        began.clear()
        finish_set_up(clone)
        if has_environment:
            for name in ("bin/python3.11", "bin/pip", "pyvenv.cfg", "lib/python3.11/site-packages/pip/__init__.py"):
                (clone.venv / name).parent.mkdir(exist_ok=True)
                (clone.venv / name).touch()
        (clone.root / "pyproject.toml").write_text(f"# {killed_after}\n")
        with pytest.raises(Killed):
            environment.set_up(clone)
        assert environment.ready(clone) is None
    began.clear()
    killed_after = 100
    environment.set_up(clone)
    assert environment.ready(clone)


def install(clone, name, version, **files):
    """A package as an installer leaves it."""
    site_packages = clone.venv / "lib/python3.11/site-packages"
    info = f"{name}-{version}.dist-info"
    rows = [f"{info}/RECORD,,"]
    for path, content in files.items():
        file = site_packages / path.replace("__", "/", 1).replace("_py", ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        rows.append(f"{file.relative_to(site_packages)},sha256=x,{len(content)}")
    (site_packages / info).mkdir(parents=True)
    (site_packages / info / "RECORD").write_text("\n".join([*rows, "../../../bin/tool,sha256=x,7", ""]))
    (clone.venv / "bin").mkdir(exist_ok=True)
    (clone.venv / "bin/tool").write_text("written for this environment")
    return site_packages


@pytest.mark.parametrize("gone", ["yaml", "PyYAML-6.0.dist-info", "../../../bin/tool"])
def test_an_environment_that_has_lost_a_package_is_not_ready(clone, gone):
    site_packages = install(clone, "PyYAML", "6.0", yaml__init_py="import x\n")
    finish_set_up(clone)
    (site_packages / "another").mkdir()
    assert environment.ready(clone)
    (site_packages / gone).rename(clone.root / "away")
    assert environment.ready(clone) is None
    (clone.root / "away").rename(site_packages / gone)
    assert environment.ready(clone)


def test_a_thorough_set_up_misses_every_file_of_a_package(clone, monkeypatch):
    site_packages = install(clone, "PyYAML", "6.0", yaml__init_py="import x\n", yaml__loader_py="y = 1\n")
    install(clone, "absl_py", "2.1", absl__init_py="")
    finish_set_up(clone)
    monkeypatch.setattr(environment, "find_java", lambda clone: str(clone.venv / "java"))
    assert environment.ready(clone, thorough=True)
    assert integrity.damaged(clone) == {}
    (site_packages / "yaml/loader.py").write_text("y = 1")
    (site_packages / "absl/init.py").unlink()
    assert integrity.damaged(clone) == {
        "pyyaml": integrity.Damage("yaml/loader.py", is_changed=True),
        "absl-py": integrity.Damage("absl/init.py", is_changed=False),
    }
    assert environment.ready(clone)
    assert environment.ready(clone, thorough=True) is None


def test_a_file_of_two_packages_and_one_that_was_never_as_recorded_are_no_damage(clone, monkeypatch):
    site_packages = install(clone, "one", "1.0", tests__init_py="short\n")
    install(clone, "two", "1.0", tests__init_py="of the last one\n", two__init_py="x = 1\n")
    assert integrity.damaged(clone) == {}
    (site_packages / "two/init.py").write_text("published so")
    assert list(integrity.damaged(clone)) == ["two"]
    assert integrity.damaged(clone, integrity.deviations(clone)) == {}
    (site_packages / "tests/init.py").unlink()
    assert list(integrity.damaged(clone, ["two/init.py"])) == ["one", "two"]


def test_damaged_packages_are_installed_again_and_changed_ones_not_from_the_cache(clone, monkeypatch, capsys):
    site_packages = install(clone, "PyYAML", "6.0", yaml__init_py="import x\n", yaml__loader_py="y = 1\n")
    install(clone, "absl_py", "2.1", absl__init_py="")
    for name in ("python", "uv"):
        (clone.venv / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (clone.venv / "bin" / name).chmod(0o755)
    (site_packages / "yaml/loader.py").write_text("y = 1")
    (site_packages / "absl/init.py").unlink()
    with steps.exclusive(clone.setup_lock, "") as lock:
        environment._install_locked(steps.Steps(clone, lock), integrity.damaged(clone))
    assert "found damaged packages: absl-py, pyyaml" in capsys.readouterr().out
    log = clone.log.read_text()
    assert "\nuv cache clean pyyaml\n" in log
    assert re.search(r"\nuv pip sync .* --reinstall-package=absl-py --reinstall-package=pyyaml ", log)


SECRET_PROGRAM = "echo looking in https://ann:PLANTED1@pypi.example/simple; echo $INDEX_TOKEN >&2; exit 3"


@pytest.mark.parametrize("killable", [True, False])
def test_neither_the_log_nor_the_error_of_a_step_shows_a_credential(clone, monkeypatch, killable):
    monkeypatch.setenv("INDEX_TOKEN", "PLANTED2-token")
    with steps.exclusive(clone.setup_lock, "") as lock:
        runner = steps.Steps(clone, lock)
        runner.new_log()
        with pytest.raises(SetupError) as failure:
            runner.run("downloading", ["sh", "-c", SECRET_PROGRAM], {"MORE_PASSWORD": "PLANTED3"}, killable=killable)
    for text in (str(failure.value), clone.log.read_text()):
        assert "looking in https://***@pypi.example/simple" in text
        assert "PLANTED" not in text
    assert clone.log.stat().st_mode & 0o777 == 0o600


def test_a_step_whose_program_is_not_there_is_one_line(clone):
    with steps.exclusive(clone.setup_lock, "") as lock:
        with pytest.raises(SetupError, match=r"^'packages' failed: .*/bin/uv: No such file or directory$"):
            steps.Steps(clone, lock).uv("packages", "sync")


def test_a_full_disk_is_one_line_at_every_step_that_writes(clone, tmp_path, monkeypatch):
    """A disk that is full from the start, and one that fills up while a program runs."""
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(python, "candidates", lambda versions: [sys.executable])
    monkeypatch.setattr(environment, "wheel_or_compiler", lambda steps, version: None)
    with small_disk(tmp_path / "disk", 30) as disk:
        here = copy_clone(disk / "clone")
        ballast = fill(disk)
        for _ in range(2):
            with pytest.raises(
                SetupError, match=r"No space left on device|no space left on the disk of .*disk.*: free some"
            ) as failure:
                environment.set_up(here)
            assert "run ./convoy again" in str(failure.value)
        assert not here.ready.exists()
        ballast.unlink()
        with steps.exclusive(here.setup_lock, "") as lock:
            runner = steps.Steps(here, lock)
            with pytest.raises(SetupError, match=r"'big' failed with exit code 1 \(no space left on the disk of .*disk/clone"):
                runner.run("big", ["sh", "-c", f"cat /dev/zero > {disk}/big"])


def test_a_torn_stamp_is_not_ready(clone):
    finish_set_up(clone)
    clone.ready.write_text('{"digest": "')
    assert environment.ready(clone) is None


def test_a_moved_clone_is_not_ready(clone):
    finish_set_up(clone)
    moved = clone.root.parent / (clone.root.name + "-moved")
    clone.root.rename(moved)
    assert environment.ready(Clone(moved)) is None


def test_killing_the_set_up_ends_the_installer_it_runs(clone, tmp_path):
    """An orphan would go on writing to .venv while the next set-up rebuilds it."""
    child = tmp_path / "child"
    script = (
        f"import sys, pathlib; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tools.setup import clone, steps\n"
        f"here = clone.Clone(pathlib.Path({str(clone.root)!r}))\n"
        "with steps.exclusive(here.setup_lock, '') as lock:\n"
        f"    steps.Steps(here, lock).run('sleep', ['sh', '-c', 'echo $$ > {child}; exec sleep 60'])\n"
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


def test_a_failed_step_shows_the_end_of_the_log_and_where_it_lies(clone):
    with steps.exclusive(clone.setup_lock, "") as lock:
        with pytest.raises(SetupError) as failure:
            steps.Steps(clone, lock).run("compiling", ["sh", "-c", "echo no such header; exit 3"])
    assert "'compiling' failed with exit code 3" in str(failure.value)
    assert "no such header" in str(failure.value)
    assert str(clone.log) in str(failure.value)


NO_INDEX = "connect this machine, or set an index (PIP_INDEX_URL) or a proxy (https_proxy) that it can reach"


def failed(clone, command):
    """The message of a step that fails."""
    with steps.exclusive(clone.setup_lock, "") as lock, pytest.raises(SetupError) as failure:
        steps.Steps(clone, lock).run("packages", command)
    return str(failure.value)


@pytest.mark.parametrize("program", ["pip", "uv"])
def test_a_package_index_that_nobody_serves_is_one_line_with_the_remedy(clone, tmp_path, monkeypatch, program):
    """With the real programs; nothing listens on port 9."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "1",
        "UV_NO_CONFIG": "1",
        "UV_HTTP_RETRIES": "0",
        "no_proxy": "127.0.0.1",
    }
    addresses = dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), "http://127.0.0.1:9/simple")
    for name, value in {**settings, **addresses}.items():
        monkeypatch.setenv(name, value)
    start = [sys.executable, "-m", "pip"] if program == "pip" else [str(Path(sys.executable).with_name("uv")), "pip"]
    message = failed(clone, [*start, "install", "--no-cache-dir", "--target", str(tmp_path / "target"), "no-such-package"])
    assert message == (
        f"'packages' failed: the package index cannot be reached ({clone.log} says why); {NO_INDEX}, then run ./convoy again"
    )
    assert "Connection refused" in clone.log.read_text()


RETRYING = "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'ReadTimeoutError()': /simple/uv/"
UV = "error: Failed to fetch: https://index.example/simple/uv/\n  cause: "
UV_SENDING = f"{UV}error sending request for url (https://index.example/simple/uv/)\n  cause: client error (Connect)\n  cause: "
INDEX = "the package index"
CONNECTION = "HTTPSConnectionPool(host='index.example', port=443): "


@pytest.mark.parametrize(
    ("command", "output", "server"),
    [
        ("pip", f"{RETRYING}\nERROR: No matching version of uv==1 (from versions: none)", INDEX),
        ("pip", f"ERROR: Could not install packages due to an OSError: {CONNECTION}Max retries exceeded with url: /uv", INDEX),
        ("pip", f"pip._vendor.urllib3.exceptions.ReadTimeoutError: {CONNECTION}Read timed out.", INDEX),
        ("pip", "error: connection-failed\n\nhint: Are you connected to the Internet?", INDEX),
        ("pip", f"{UV_SENDING}dns error\n  cause: failed to lookup address information", INDEX),
        ("pip", f"{UV_SENDING}tunnel error: unsuccessful", INDEX),
        ("python", f"{UV_SENDING}tcp connect error", "the server"),
        ("apt-get", "E: Failed to fetch http://mirror.example/x  Temporary failure resolving 'mirror.example'", "apt's server"),
        ("pip", f"{RETRYING}\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", None),
        ("pip", f"{RETRYING}\nERROR: No matching version of uv==1 (from versions: 2)", None),
        ("pip", "ERROR: No matching version of uv==1 (from versions: none)", None),
        ("pip", f"There was a problem: {CONNECTION}Max retries exceeded with url: /uv (Caused by SSLError(x))", None),
        ("pip", f"{UV_SENDING}invalid peer certificate: UnknownIssuer", None),
        ("pip", f"{UV}HTTP status server error (503 Service Unavailable)", None),
    ],
)
def test_only_what_could_not_be_reached_is_called_so(clone, command, output, server):
    program = interpreter(clone.root, "program", "")
    Path(program).write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit 2\n")
    message = failed(clone, [program, command])
    if server is None:
        assert message.startswith(f"'packages' failed with exit code 2. The end of {clone.log}:\n")
    else:
        assert message.startswith(f"'packages' failed: {server} cannot be reached ({clone.log} says why); connect this machine, ")
        assert "\n" not in message


def test_what_an_earlier_step_could_not_reach_is_not_why_a_later_one_fails(clone):
    assert "cannot be reached" in failed(clone, ["sh", "-c", f"echo '{UV_SENDING}dns error'; exit 2", "pip"])
    assert "cannot be reached" not in failed(clone, ["sh", "-c", "echo no such header; exit 2", "pip"])


def test_a_missing_compiler_is_one_line_where_nothing_can_be_installed(clone, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "empty"))
    with pytest.raises(SetupError) as failure:
        horovod.wheel_or_compiler(steps.Steps(clone, 0), "3.11")
    assert str(failure.value) == (
        "g++ make is missing (to compile Horovod); install it (apt-get install g++ make), then run ./convoy again"
    )


def test_a_cached_horovod_needs_no_compiler(clone, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    folder = horovod.wheel_folder(clone, "3.11")
    folder.mkdir(parents=True)
    (folder / "horovod.whl").touch()
    horovod.wheel_or_compiler(steps.Steps(clone, 0), "3.11")
    assert "cp311" in folder.name
    assert f"tf{locked_version(clone.packages, 'tensorflow')}" in folder.name


def wheel(folder, tensorflow):
    """A wheel of Horovod, as far as the set-up looks into it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("horovod/metadata.json", json.dumps({"tensorflow": tensorflow} if tensorflow else {}))
    return file


@pytest.mark.parametrize(
    ("tensorflow", "found"),
    [("2.16.1", "for TensorFlow 2.16.1"), ("", "without TensorFlow, or is damaged"), (None, "without TensorFlow, or is damaged")],
    ids=["another TensorFlow", "none", "torn"],
)
def test_a_kept_horovod_that_does_not_fit_is_one_line_and_not_installed(clone, tmp_path, monkeypatch, tensorflow, found):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    folder = horovod.wheel_folder(clone, "3.11")
    file = wheel(folder, tensorflow)
    if tensorflow is None:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(SetupError) as failure:
        horovod.install_horovod(steps.Steps(clone, 0), "3.11")
    needed = locked_version(clone.packages, "tensorflow")
    assert str(failure.value) == (
        f"{file} was compiled {found}, but {needed} is needed; delete {folder}, then run ./convoy again"
    )


def test_a_kept_horovod_is_that_of_its_python_tensorflow_and_patch(clone, monkeypatch):
    name = horovod.wheel_folder(clone, "3.11").name
    assert name != horovod.wheel_folder(clone, "3.10").name
    assert name != horovod.wheel_folder(Clone(clone.root, "dbr-15.4-ml"), "3.11").name
    monkeypatch.setattr(horovod, "PATCH", "another")
    assert name != horovod.wheel_folder(clone, "3.11").name


def test_the_patch_takes_out_its_lines_and_fits_no_other_source(tmp_path):
    for name, line in horovod.REMOVED_LINES.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"before\n{line}\nafter\n")
    horovod.patch(tmp_path)
    assert [(tmp_path / name).read_text() for name in horovod.REMOVED_LINES] == ["before\nafter\n"] * 2
    with pytest.raises(SetupError, match=r"CMakeLists\.txt is not from Horovod 0\.28\.1"):
        horovod.patch(tmp_path)


def test_pip_settings_become_uv_settings_and_the_environment_wins(clone):
    settings = environment.uv_settings(
        "global.index-url='https://files.example/simple'\n"
        "global.extra-index-url='https://more.example/simple file:///srv/simple'\n"
        ":env:.index-url='https://env.example/simple'\n"
        "global.cert='/etc/ca.pem'\n"
    )
    assert settings["UV_DEFAULT_INDEX"] == "https://env.example/simple"
    assert settings["UV_INDEX"] == "https://more.example/simple"
    assert settings["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert "UV_DEFAULT_INDEX" not in environment.uv_settings("")


def test_the_lock_pins_by_hash_and_holds_no_address_and_no_torch(clone):
    lock = clone.packages.read_text()
    block = locked_block(lock, "uv")
    assert block.startswith("uv==")
    assert "--hash=sha256:" in block
    assert "uvicorn" not in block
    for unwanted in ("://", "\ntorch", "nvidia"):
        assert unwanted not in lock


def test_programs_of_the_project_see_its_environment_and_may_write_bytecode(clone, monkeypatch):
    (clone.venv / "lib/python3.11/site-packages").mkdir(parents=True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("SPARK_CONF_DIR", "/elsewhere")
    variables = program_environment(clone)
    assert variables["PATH"].split(os.pathsep)[0] == str(clone.venv / "bin")
    assert variables["JAVA_HOME"] == str(clone.venv / "spark-java")
    assert variables["CONVOY_HOME"] == str(clone.root)
    assert not {"PYTHONDONTWRITEBYTECODE", "SPARK_CONF_DIR"} & set(variables)


def test_each_runtime_records_in_a_store_of_its_own_unless_the_user_has_one(clone, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runtime = Clone(clone.root, "dbr-17.3-ml")
    for each in (clone, runtime):
        (each.venv / "lib/python3.12/site-packages").mkdir(parents=True)
    assert "MLFLOW_TRACKING_URI" not in run_environment(clone)
    assert run_environment(runtime)["MLFLOW_TRACKING_URI"] == f"sqlite:///{clone.root}/mlflow-dbr-17.3-ml.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://own:5000")
    assert run_environment(runtime)["MLFLOW_TRACKING_URI"] == "http://own:5000"


def test_the_spark_files_are_replaced_and_never_written_through_a_link(clone, tmp_path):
    """uv links installed files to its cache; writing into one would change it for every clone."""
    cached = tmp_path / "cached-spark-submit"
    cached.write_text("the one of the package")
    (clone.venv / "bin").mkdir(parents=True)
    (clone.venv / "lib/python3.11/site-packages/pyspark").mkdir(parents=True)
    os.link(cached, clone.venv / "bin/spark-submit")
    write_spark_conf(clone, "/opt/java home")
    assert cached.read_text() == "the one of the package"
    assert os.access(clone.venv / "bin/spark-submit", os.X_OK)
    conf = clone.venv / "lib/python3.11/site-packages/pyspark/conf"
    assert f"{clone.root}/runs/spark.log" in (conf / "log4j2.properties").read_text()
    shown = subprocess.run(
        ["bash", "-c", f". {conf}/spark-env.sh; echo $JAVA_HOME:$CONVOY_HOME"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": os.environ["PATH"], "CONVOY_HOME": "/mine"},
    )
    assert shown.stdout.strip() == f"{clone.venv}/spark-java:/mine"


def test_spark_starts_with_the_settings_of_the_project_and_the_archive_of_its_classes(clone):
    spark = clone.venv / "lib/python3.11/site-packages/pyspark"
    given = ["--properties-file", f"{spark}/conf/spark-defaults.conf", "a job.py", "--workers", "2"]
    logging = f'-Dlog4j2.configurationFile="{spark}/conf/log4j2.properties"'
    empty = clone.venv / "no-spark-conf"
    assert started(clone) == [str(empty), f"{logging} ", str(clone.root), *given]
    assert list(empty.iterdir()) == []
    archive = clone.venv / java.CLASSES
    archive.write_text("classes")
    # Java crashes on an archive that is cut off.
    for size in (None, "8\n"):
        if size:
            (clone.venv / java.SIZE).write_text(size)
        assert started(clone)[1] == f"{logging} "
    (clone.venv / java.SIZE).write_text("7\n")
    options = f'-XX:SharedArchiveFile="{archive}" -XX:+VerifySharedSpaces -Xlog:cds*=off {logging} -Dmine=1'
    assert started(clone, SPARK_SUBMIT_OPTS="-Dmine=1", CONVOY_HOME="/mine") == [str(empty), options, "/mine", *given]
    # A job that submits another.
    assert started(clone, SPARK_CONF_DIR=str(empty))[3:] == given


def test_a_folder_with_quotes_and_other_marks_reaches_spark_as_it_is_written(tmp_path):
    clone = copy_clone(tmp_path / "O'Brien's (new), a=b+c@d~e^f Zürich 😀")
    assert started(clone)[2] == str(clone.root)
    assert started(clone, CONVOY_HOME="/it's mine")[2] == "/it's mine"
    clone.check_folder()
    properties = (clone.venv / "lib/python3.11/site-packages/pyspark/conf/log4j2.properties").read_text(encoding="ascii")
    (log,) = re.findall(r"(?<=fileName = ).*", properties)
    # Java decodes such escapes as JSON does.
    assert json.loads(f'"{log}"') == f"${{env:CONVOY_SPARK_LOG:-{clone.root}/runs/spark.log}}"


def test_an_archive_of_classes_that_cannot_be_made_is_told_and_hinders_nothing(clone, tmp_path, capsys):
    (clone.venv / "bin").mkdir(parents=True)
    (clone.venv / "lib/python3.11/site-packages/pyspark/jars").mkdir(parents=True)
    (tmp_path / "java/bin").mkdir(parents=True)
    for program in (clone.venv / "bin/spark-submit", tmp_path / "java/bin/java"):
        program.write_text("#!/bin/sh\necho Unrecognized VM option; exit 1\n")
        program.chmod(0o755)
    (clone.venv / java.CLASSES).write_text("of another Java")
    with (tmp_path / "lock").open("w") as lock:
        java.archive_classes(steps.Steps(clone, lock.fileno()), str(tmp_path / "java"))
    assert f"the archive could not be created ({clone.log} says why)" in capsys.readouterr().out
    assert "Unrecognized VM option" in clone.log.read_text()
    assert not (clone.venv / java.CLASSES).exists()


def test_an_archive_of_classes_whose_bits_have_changed_is_made_anew(clone, tmp_path):
    (clone.venv / "bin").mkdir(parents=True)
    (clone.venv / "lib/python3.11/site-packages/pyspark/jars").mkdir(parents=True)
    (tmp_path / "java/bin").mkdir(parents=True)
    make = 'file="${SPARK_SUBMIT_OPTS#*=}"; eval "echo classes >$file"'
    for program, does in ((clone.venv / "bin/spark-submit", make), (tmp_path / "java/bin/java", "echo 17")):
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    archive = clone.venv / java.CLASSES
    for damage in ("classes\n", "clasres\n", "cla"):
        with (tmp_path / "lock").open("w") as lock:
            java.archive_classes(steps.Steps(clone, lock.fileno()), str(tmp_path / "java"))
        assert archive.read_text() == "classes\n"
        assert not java.archive_is_damaged(clone)
        archive.write_text(damage)
        assert java.archive_is_damaged(clone) == (damage != "classes\n")


def test_a_parser_that_cannot_be_compiled_is_told_and_hinders_nothing(clone, tmp_path, capsys):
    (clone.venv / "bin").mkdir(parents=True)
    clone.python.write_text("#!/bin/sh\necho no LLVM here; exit 1\n")
    clone.python.chmod(0o755)
    with (tmp_path / "lock").open("w") as lock:
        environment._compile_parser(steps.Steps(clone, lock.fileno()))
    assert f"the parser could not be compiled ({clone.log} says why)" in capsys.readouterr().out
    assert "no LLVM here" in clone.log.read_text()


def test_another_spark_and_a_module_of_another_project_do_not_get_into_the_start_of_spark(clone, tmp_path):
    (tmp_path / "other/pipelines").mkdir(parents=True)
    (tmp_path / "other/pipelines/__init__.py").touch()
    spark = clone.venv / "lib/python3.11/site-packages/pyspark"
    given = {"SPARK_HOME": "/opt/other", "PYTHONPATH": str(tmp_path / "other"), "SHELLOPTS": "braceexpand:hashall:nounset"}
    started(clone)
    (spark / "bin/spark-submit").write_text('#!/bin/sh\nprintf "%s\\n" "$SPARK_HOME" "<${PYTHONPATH:-}>" "<${SHELLOPTS:-}>"\n')
    command = [str(clone.venv / "bin/spark-submit"), "a job.py"]
    variables = {"PATH": os.environ["PATH"], **given}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines() == [str(spark), "<>", "<>"]
    assert done.stderr.count("\n") == 1
    assert f"PYTHONPATH: {tmp_path / 'other'} is left out" in done.stderr


def test_what_python_reads_at_its_start_is_ascii_wherever_the_clone_is(tmp_path):
    clone = copy_clone(tmp_path / "Zürich")
    started(clone)
    (path,) = clone.site_packages.glob("*.pth")
    assert path.read_bytes().isascii()
    shown = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path.append({str(clone.site_packages / 'pyspark/jars/x.jar')!r}); "
            f"exec(open({str(path)!r}).read()); print([p for p in sys.path if 'rich' in p])",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout == "[]\n"


def test_a_folder_of_settings_of_the_users_own_is_left_to_spark(clone):
    assert started(clone, SPARK_CONF_DIR="/mine", CONVOY_HOME="/home") == ["/mine", "", "/home", "a job.py", "--workers", "2"]


def test_another_runtime_has_an_environment_and_a_lock_of_its_own(clone):
    runtime = Clone(clone.root, "dbr-15.4-ml")
    runtime.check_runtime()
    assert runtime.venv == clone.root / ".venv-dbr-15.4-ml"
    assert "\ntensorflow==2.16.1 " in runtime.packages.read_text()
    assert horovod.wheel_folder(runtime, "3.11").name.startswith("horovod-0.28.1-cp311-tf2.16.1-")
