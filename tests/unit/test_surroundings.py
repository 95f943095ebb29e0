"""What is repaired in the surroundings of a process, and what is refused."""

import json
import os
import resource
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

from pipelines.system import keras_settings, surroundings

PACKAGES = str(Path(pytest.__file__).parents[1])
ROOT = Path(__file__).parents[2]
UTF_8 = "C.UTF-8"


@pytest.fixture
def plain(tmp_path):
    """Variables in which there is nothing to repair."""
    return {"HOME": str(tmp_path), "LANG": UTF_8, "PATH": os.environ["PATH"], "KERAS_BACKEND": "tensorflow"}


def changes(variables):
    return surroundings.changes(variables)


def test_sane_surroundings_stay_as_they_are(plain):
    more = {"PYTHONPATH": "/somewhere", "PYTHONWARNINGS": "ignore,default::DeprecationWarning", "NO_PROXY": "x", "A_B": "c=d"}
    assert surroundings.repaired(plain | more, PACKAGES) == (plain | more, [])


@pytest.mark.parametrize(
    ("variables", "repaired"),
    [
        ({"LC_ALL": "C"}, True),
        ({"LC_ALL": "POSIX"}, True),
        ({"LC_ALL": "", "LC_CTYPE": "C"}, True),
        ({"LANG": ""}, True),
        ({"LANG": "C"}, True),
        ({"LC_ALL": "xx_YY.UTF-8"}, True),
        ({"LC_ALL": "xx_YY.ISO-8859-1"}, True),
        ({"LC_ALL": "C.UTF-8", "LANG": "C"}, False),
        ({"LC_CTYPE": "C.utf8", "LANG": "C"}, False),
        ({"LC_MESSAGES": "C", "LC_NUMERIC": "C"}, False),
    ],
    ids=str,
)
def test_the_locale_is_one_of_utf_8_that_this_machine_has(plain, variables, repaired):
    assert changes(plain | variables) == ({"LC_ALL": UTF_8} if repaired else {})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("error", None),
        ("e", None),
        ("error::DeprecationWarning,ignore::FutureWarning", "ignore::FutureWarning"),
        ("ignore, err:text", "ignore"),
        ("always", "always"),
        ("", ""),
    ],
)
def test_no_warning_of_a_library_is_made_an_error(plain, given, kept):
    repaired, _ = surroundings.repaired(plain | {"PYTHONWARNINGS": given})
    assert repaired.get("PYTHONWARNINGS") == kept


@pytest.mark.parametrize("name", ["PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONINSPECT"])
def test_variables_that_change_how_python_runs_a_program_are_dropped(plain, name):
    assert changes(plain | {name: "1"}) == {name: None}


@pytest.mark.parametrize("name", ["CDPATH", "BASH_ENV", "SHELLOPTS", "POSIXLY_CORRECT"])
def test_variables_that_change_what_sparks_scripts_do_are_dropped(plain, name):
    assert changes(plain | {name: "/x"}) == {name: None}


@pytest.mark.parametrize(
    ("variables", "excepted"),
    [
        ({"http_proxy": "http://p:1"}, "localhost,127.0.0.1,::1"),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "a.b, 127.0.0.1"}, "a.b,127.0.0.1,localhost,::1"),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "*"}, None),
        ({"http_proxy": ""}, None),
    ],
    ids=str,
)
def test_what_listens_on_this_machine_is_not_reached_through_a_proxy(plain, variables, excepted):
    assert changes(plain | variables) == ({"no_proxy": excepted, "NO_PROXY": excepted} if excepted else {})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        *(({"KERAS_BACKEND": name}, {"KERAS_BACKEND": "tensorflow"}) for name in ("torch", "jax", "numpy", "theano", "")),
        ({"TF_USE_LEGACY_KERAS": "1"}, {"TF_USE_LEGACY_KERAS": None}),
        ({"KERAS_MAX_EPOCHS": "1"}, {"KERAS_MAX_EPOCHS": None}),
        ({"KERAS_MAX_STEPS_PER_EPOCH": "1"}, {"KERAS_MAX_STEPS_PER_EPOCH": None}),
    ],
    ids=str,
)
def test_keras_has_tensorflow_as_its_backend_and_no_limits(plain, variables, expected):
    assert changes(plain | variables) == expected


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ('{"floatx": "float32", "epsilon": 1e-07, "backend": "jax", "image_data_format": "channels_last"}', True),
        ("{}", True),
        ('{"image_data_format": "channels_first"}', False),
        ('{"floatx": "float16"}', False),
        ('{"epsilon": 0.1}', False),
        ("[]", False),
        ("{", False),
    ],
)
@pytest.mark.parametrize("place", ["HOME", "KERAS_HOME"])
def test_a_settings_file_of_keras_counts_only_if_it_holds_the_defaults(plain, tmp_path, content, read, place):
    folder = tmp_path / ".keras" if place == "HOME" else tmp_path / "other"
    folder.mkdir()
    (folder / "keras.json").write_text(content)
    variables = plain | ({} if place == "HOME" else {"KERAS_HOME": str(folder)})
    changed = changes(variables)
    assert set(changed) == (set() if read else {"KERAS_HOME"})
    if not read:
        assert not Path(changed["KERAS_HOME"]).exists()
        with pytest.raises(NotADirectoryError):
            Path(changed["KERAS_HOME"]).mkdir(parents=True)


def test_keras_settings_last_for_the_block_only(plain):
    variables = plain | {"KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1"}
    before = dict(variables)
    with keras_settings.defaults(variables):
        assert variables == plain
    assert variables == before


def written(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return str(folder)


@pytest.mark.parametrize(
    "name", ["pipelines/__init__.py", "numpy.py", "yaml/__init__.py", "json.py", "_cffi_backend.cpython-3.so"]
)
def test_a_module_on_pythonpath_never_replaces_one_of_the_environment(plain, tmp_path, name):
    other, own = written(tmp_path / "other", name), written(tmp_path / "own", "my_loss.py", "data/numpy.csv")
    repaired, (note,) = surroundings.repaired(
        plain | {"PYTHONPATH": f"{other}:{own}:"}, written(tmp_path / "packages", name, "numpy/__init__.py", "yaml.py")
    )
    assert repaired["PYTHONPATH"] == own
    module = name.partition("/")[0].partition(".")[0]
    assert note == f"PYTHONPATH: {other} is left out, because it would replace {module} of Convoy's environment"
    alone, _ = surroundings.repaired(plain | {"PYTHONPATH": other}, written(tmp_path / "packages", name))
    assert "PYTHONPATH" not in alone


def test_an_archive_on_pythonpath_counts_too_and_the_environment_itself_does_not(plain, tmp_path):
    archive = tmp_path / "libraries.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("numpy/__init__.py", "")
        file.writestr("numpy/core.py", "")
    path = os.pathsep.join([str(archive), PACKAGES, str(ROOT)])
    repaired, notes = surroundings.repaired(plain | {"PYTHONPATH": path}, PACKAGES)
    assert repaired["PYTHONPATH"] == path.partition(os.pathsep)[2]
    assert len(notes) == 1


def test_a_running_process_is_repaired_as_far_as_it_can_be(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surroundings.apply()
        assert "error" not in {action for action, *_ in warnings.filters}
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert not {"PYTHONWARNINGS", "TF_USE_LEGACY_KERAS"} & set(os.environ)


def test_no_letter_of_a_path_ends_a_program_that_prints_it():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipelines.system import surroundings as s; s.apply(); print('ü')"
    command = [sys.executable, "-c", code]
    for encoding, printed in (("ascii", b"\\xfc\n"), ("latin-1", b"\xfc\n"), ("utf-8", b"\xc3\xbc\n")):
        variables = os.environ | {"PYTHONIOENCODING": encoding}
        assert subprocess.run(command, env=variables, capture_output=True, timeout=30, check=True).stdout == printed


def become(*command, prefix=(), **variables):
    """What the module, run as by `spark-submit`, turns into."""
    program = [sys.executable, "-I", "-S", surroundings.__file__, PACKAGES, *command]
    return subprocess.run(
        [*prefix, *program], env=os.environ | variables, capture_output=True, text=True, timeout=30, check=False
    )


def test_it_turns_into_a_program_with_its_arguments_and_repaired_variables():
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    done = become(sys.executable, "-c", code, "a b", "", "ü", LC_ALL="C", PYTHONWARNINGS="error", KERAS_BACKEND="jax")
    arguments, variables = json.loads(done.stdout)
    assert arguments == ["a b", "", "ü"]
    assert (variables["LC_ALL"], variables["KERAS_BACKEND"]) == (UTF_8, "tensorflow")
    assert "PYTHONWARNINGS" not in variables
    assert done.stderr == ""


def test_a_module_of_another_project_is_named_and_not_found(tmp_path):
    other = written(tmp_path, "pipelines/__init__.py")
    done = become("/bin/sh", "-c", 'echo "<$PYTHONPATH>"', PYTHONPATH=other)
    assert done.stdout == "<>\n"
    assert (
        done.stderr == f"warning: PYTHONPATH: {other} is left out, because it would replace pipelines of Convoy's environment\n"
    )


def test_a_job_imports_nothing_from_the_working_directory_and_a_program_of_the_user_may():
    show = ("/bin/sh", "-c", 'echo "<${PYTHONSAFEPATH:-}>"')
    job = str(ROOT / "jobs/train_cnn.py")
    assert become(*show, "--conf", job).stdout == "<1>\n"
    assert become(*show, "/home/me/jobs/train_cnn.py").stdout == "<>\n"


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = become("/bin/sh", "-c", "ulimit -n", prefix=("/bin/sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh"))
    assert done.stdout == ("1048576\n" if hard == resource.RLIM_INFINITY else f"{hard}\n")


@pytest.mark.parametrize("files", [64, 256])
def test_few_open_files_are_refused_in_one_line(files):
    done = become("/bin/echo", "started", prefix=("/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"))
    assert done.returncode == 1
    assert done.stdout == ""
    reason = f"only {files} files may be open at a time (ulimit -n), Spark needs {surroundings.FILES}"
    assert done.stderr == f"error: {reason}; raise the limit, also the hard one\n"


def test_a_working_directory_that_has_gone_is_refused_in_one_line(tmp_path):
    done = become("/bin/echo", "started", prefix=("/bin/sh", "-c", f'cd {tmp_path}; rmdir {tmp_path}; exec "$@"', "sh"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "error: the working directory no longer exists; change to one that does"


def test_a_user_without_a_name_is_refused_in_one_line():
    done = become("/bin/echo", "started", prefix=("unshare", "--user", "--map-user=54321"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the user with uid 54321 has no name, and Java needs one; add an entry to /etc/passwd (")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"])
def test_the_launcher_of_spark_leaves_the_choice_of_a_garbage_collector_to_the_user(plain, name):
    launcher = {"SPARK_LAUNCHER_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
    assert changes(plain | launcher | {name: "-Xmx1g -XX:+UseG1GC"}) == {"SPARK_LAUNCHER_OPTS": "-XX:TieredStopAtLevel=1"}
    assert changes(plain | launcher | {name: "-Xmx1g"}) == {}


def test_a_user_without_name_and_home_has_both_in_variables():
    code = f"import json, sys; sys.path.insert(0, {str(ROOT)!r}); from pipelines.system import surroundings as s; "
    command = ["unshare", "--user", "--map-user=54321", sys.executable, "-c", code + "print(json.dumps(s.changes({})))"]
    changed = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)
    assert {name: changed.get(name) for name in ("USER", "LOGNAME", "HOME")} == {
        "USER": "uid54321",
        "LOGNAME": "uid54321",
        "HOME": "/",
    }


def test_sparks_log_is_not_in_a_clone_that_cannot_be_written(tmp_path):
    """Without a file for it, Spark prints hundreds of lines."""
    folder = ROOT / "runs" if (ROOT / "runs").is_dir() else ROOT
    mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    show = ("/bin/sh", "-c", 'echo "<${CONVOY_SPARK_LOG:-}>"')
    assert become(*show).stdout == "<>\n"
    assert become(*show, prefix=prefix, CONVOY_CACHE=str(tmp_path)).stdout == f"<{tmp_path}/spark.log>\n"
    assert become(*show, prefix=prefix, CONVOY_CACHE=str(tmp_path / "none")).stdout == "</dev/null>\n"
    assert become(*show, prefix=prefix, CONVOY_SPARK_LOG="/my.log").stdout == "</my.log>\n"
