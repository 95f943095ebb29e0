"""What cannot work is rejected before data is read."""

import subprocess
import sys

import pytest
from support.submitting import ROOT, command, environment, write_digits

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_digits(folder)
    return folder


def test_the_doctor_finds_that_training_can_work_here(home):
    doctor = [sys.executable, str(ROOT / "jobs/doctor.py")]
    done = subprocess.run(doctor, env=environment(home), cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *rows, last = done.stdout.splitlines()
    assert last == "training can work here"
    passed = {row.split()[1] for row in rows if row.startswith("ok ")}
    assert passed >= {"Python", "Java", "TensorFlow", "Horovod", "Petastorm", "MLflow"}


def test_the_doctor_checks_the_executors_if_given_workers(home):
    doctor = [sys.executable, str(ROOT / "jobs/doctor.py"), "--workers", "2"]
    variables = environment(home, PYSPARK_SUBMIT_ARGS="--master local[2] pyspark-shell")
    done = subprocess.run(doctor, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if "  executor " in line]
    assert [row.split()[:3] for row in rows] == [["ok", "executor", "0"]]
    assert any(line.split()[:4] == ["ok", "task", "slots", "2"] for line in done.stdout.splitlines())


def submit_with(home, *settings):
    asked = command(home)
    asked[1:1] = [argument for setting in settings for argument in ("--conf", setting)]
    return subprocess.run(asked, env=environment(home), cwd=home, capture_output=True, text=True, timeout=150, check=False)


def test_executors_without_the_drivers_python_are_one_line(home):
    # Not by the variable PYSPARK_PYTHON: the set-up pins it for every spark-submit of this environment.
    done = submit_with(home, "spark.pyspark.python=/nowhere/python3", f"spark.pyspark.driver.python={sys.executable}")
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last == "error: executors cannot start Python (/nowhere/python3); set PYSPARK_PYTHON to a Python that all nodes have"
    assert not (home / "tables").exists()


def test_dynamic_allocation_is_one_line(home):
    done = submit_with(home, "spark.dynamicAllocation.enabled=true")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("error: spark.dynamicAllocation.enabled=true: workers must all run at once")
    assert not (home / "tables").exists()
