"""Whole commands in surroundings that libraries would read before Convoy: all repaired, or refused in one line."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from support import control_groups
from support.submitting import ROOT, SETTINGS, SUBMIT, command, environment, write_digits

from benchmarks.cluster.network import why_not

pytestmark = pytest.mark.timeout(280)
# The Keras settings of a user whose other project needs them.
KERAS = {"floatx": "float16", "epsilon": 0.1, "backend": "torch", "image_data_format": "channels_first"}
CLASHES = ("pipelines/__init__.py", "numpy.py", "yaml.py", "json.py", "pyspark/__init__.py", "keras.py")


def clashing(folder):
    for name in CLASHES:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"raise RuntimeError('{name} of another project')\n")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "Zürich"
    folder.mkdir()
    write_digits(folder)
    for name in ("train", "test"):
        (folder / f"digits/digits-{name}.txt").rename(folder / f"digits/größe-{name}.txt")
    return folder


@pytest.fixture(scope="module")
def hostile(home, tmp_path_factory):
    """Runs a command with everything at once that can be repaired, in a working directory full of another project's modules."""
    keras = tmp_path_factory.mktemp("user") / ".keras"
    keras.mkdir()
    (keras / "keras.json").write_text(json.dumps(KERAS))
    here = clashing(tmp_path_factory.mktemp("here"))
    variables = {
        "LC_ALL": "C",
        "HOME": str(keras.parent),
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "1",
        "KERAS_MAX_STEPS_PER_EPOCH": "1",
        "TF_USE_LEGACY_KERAS": "1",
        "PYTHONPATH": str(clashing(tmp_path_factory.mktemp("other"))),
        "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2",
        "PYTHONIOENCODING": "ascii",
        "http_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "CDPATH": "/:.",
        "SPARK_HOME": "/opt/another-spark",
        "JAVA_TOOL_OPTIONS": "-XX:+UseG1GC -Duser.language=tr -Duser.country=TR",
        "CONVOY_CACHE": os.environ.get("CONVOY_CACHE") or str(Path.home() / ".cache/convoy"),
    }

    def run(*arguments, **more):
        limited = ["sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh", *map(str, arguments)]
        own = environment(home) | variables | more
        return subprocess.run(limited, env=own, cwd=here, capture_output=True, text=True, timeout=200, check=False)

    return run


@pytest.fixture(scope="module")
def trained(hostile, home):
    sets = [part for setting in (*SETTINGS, "training.epochs=3", "training.precision=float32") for part in ("--set", setting)]
    folders = ["--config", "conf/train_cnn.yml", "--data", home / "digits", "--summary", home / "summary.json"]
    done = hostile(SUBMIT, "--master", "local[2]", ROOT / "jobs/train_cnn.py", *folders, *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads((home / "summary.json").read_text())


def test_training_is_as_anywhere_else(trained, home):
    done, summary = trained
    assert (summary["epochs"], summary["precision"], summary["rows"]["train"]) == (3, "float32", 540)
    assert summary["test"]["accuracy"] > 0.9
    assert summary["table"].startswith("tables/digits-")
    assert {folder.name for folder in home.iterdir()} >= {"digits", "mlflow.db", "runs", "tables"}
    # Java and Python write the name of the folder alike.
    assert [folder.name for folder in home.parent.iterdir()] == ["Zürich"]
    shown = done.stdout + done.stderr
    assert "Traceback" not in shown
    # A fork server in other surroundings than its ranks would be passed over.
    (log,) = home.glob("runs/*/logs/rank-0.log")
    assert "is started as a new process" not in log.read_text()
    assert sum("is left out, because it would replace" in line for line in shown.splitlines()) == 1


def test_prediction_scoring_and_the_bare_model_are_too(trained, hostile, home):
    _, summary = trained
    rows = home / "digits/größe-test.txt"
    labels = [line.split()[0] for line in rows.read_text().splitlines()]
    done = hostile(ROOT / "convoy", "predict", "--json", "--set", f"tracking.uri={summary['tracking_uri']}", rows)
    assert done.returncode == 0, done.stdout + done.stderr
    predicted = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert sum(map(str.__eq__, predicted, labels)) == round(summary["test"]["accuracy"] * len(labels))
    scored = hostile(SUBMIT, "--master", "local[1]", ROOT / "jobs/score.py", "--data", rows, "--output", home / "ausgewählt")
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert f"{len(labels)} rows scored" in scored.stdout
    assert (home / "ausgewählt/_SUCCESS").exists()
    code = (
        "import os, sys; sys.path[:] = [p for p in sys.path if p]; before = dict(os.environ)\n"
        "import mlflow, numpy as np; mlflow.set_tracking_uri(sys.argv[1]); model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "images = np.linspace(0, 255, 7200, dtype=np.float32).reshape(50, 12, 12, 1); first = model.predict(images)\n"
        "import keras; keras.config.set_floatx('float16'); again = model.predict(images)\n"
        "print(first.dtype, os.environ['KERAS_BACKEND'], np.array_equal(first, again), keras.config.floatx())\n"
    )
    bare = hostile(sys.executable, "-c", code, summary["tracking_uri"], summary["model_uri"], PYTHONPATH="", PYTHONWARNINGS="")
    assert bare.returncode == 0, bare.stderr
    assert bare.stdout.splitlines()[-1] == "float32 torch True float16"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        (("sh", "-c", 'ulimit -n 256; exec "$@"', "sh"), "only 256 files may be open at a time"),
        (("unshare", "--user", "--map-user=54321"), "the user with uid 54321 has no name"),
        (("unshare", "--map-root-user", "--net"), "this machine has no 127.0.0.1 (Network is unreachable)"),
    ],
    ids=["few open files", "a user without a name", "no loopback"],
)
@pytest.mark.parametrize("door", ["front door", "spark-submit"])
def test_what_spark_cannot_start_in_is_refused_in_one_line(home, prefix, reason, door):
    asked = [str(ROOT / "convoy"), "train"] if door == "front door" else command(home)
    done = subprocess.run(
        [*prefix, *asked], env=environment(home), cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("convoy: $ ")]
    assert line.startswith(f"error: {reason}")


# Shell commands as root of new namespaces, before the program; `processors` is a control group with little more than one.
PLACES = {
    "no HOME, localhost is IPv6, its own name does not resolve": (
        "echo ::1 localhost > hosts; mount --bind hosts /etc/hosts; hostname nobody-knows-me; unset HOME"
    ),
    "HOME cannot be written, TMPDIR is noexec, processors are limited": (
        "mkdir ro noexec; mount -t tmpfs -o ro none ro; mount -t tmpfs -o noexec none noexec; "
        'export HOME=$PWD/ro TMPDIR=$PWD/noexec; [ -z "$processors" ] || echo $$ > $processors'
    ),
}


@pytest.mark.skipif(bool(why_not()), reason=f"namespaces are not permitted: {why_not()}")
@pytest.mark.parametrize("place", PLACES)
def test_a_training_works_there_without_a_trace_of_java(home, tmp_path, place):
    enter = f'cd {tmp_path}; ip link set lo up; {PLACES[place]}; cd {home}; exec "$@"'
    cache = os.environ.get("CONVOY_CACHE") or str(Path.home() / ".cache/convoy")
    limited = nullcontext("") if control_groups.why_not() else control_groups.processors(1.2)
    with limited as group:
        done = subprocess.run(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", enter, "sh", *command(home, "training.epochs=1")],
            env=environment(home) | {"CONVOY_CACHE": cache, "processors": str(group)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert "test accuracy" in shown
    assert not [line for line in shown.splitlines() if line.startswith(("\tat ", "Traceback", "Caused by"))]


@pytest.mark.skipif(bool(control_groups.why_not()), reason=control_groups.why_not())
def test_with_less_memory_than_it_takes_a_training_is_refused_in_one_line(home):
    with control_groups.memory(1_500_000_000) as group:
        enter = ["sh", "-c", f'echo $$ > {group}; exec "$@"', "sh"]
        done = subprocess.run(
            [*enter, *command(home)], env=environment(home), cwd=home, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    folder, line = (done.stdout + done.stderr).splitlines()
    assert folder.startswith("run folder ")
    assert line.startswith(
        "error: only 1.5 GB of memory may be used here (the limit of its control group), and a training with 2 "
    )
