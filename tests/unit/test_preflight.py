import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import doctor
from pipelines.errors import LaunchError
from pipelines.launch.preflight import check, packages, probe, requirements
from pipelines.system.memory_limit import Memory

GOOD = probe.NodeReport(
    python="3.13.0",
    java='openjdk version "17.0.9" 2023-10-17',
    versions={
        "keras": "3.15.1",
        "petastorm": "0.13.1",
        "pyarrow": "25.0.1",
        "numpy": "2.5.5",
        "mlflow": "3.17.2",
        "horovod": "0.28.1",
        "pyspark": "4.3.0",
    },
    tensorflow="2.21.0",
    horovod_tensorflow="2.21.0",
    gloo=True,
    cores=4,
    memory=16 * requirements.GIGABYTE,
    bfloat16=("amx_bf16",),
)

RUNTIMES = sorted((Path(__file__).parents[2] / "conf/constraints").glob("dbr-*.txt"))


def of_runtime(file):
    """What a node of a Databricks runtime has, by its file of facts, and what the init script adds where it is missing."""
    text = file.read_text()
    python, java = re.search(r"^# Python (\S+), Java (\d+),", text, re.M).groups()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.M))
    added = {"tensorflow": "2.21.0", "keras": "3.15.1", "petastorm": "0.12.1", "horovod": "0.28.1"}
    versions = {**added, **pinned}
    return probe.NodeReport(
        python=python,
        java='openjdk version "1.8.0_412"' if java == "8" else f'openjdk version "{java}.0.9" 2023-10-17',
        versions={name: versions[name] for name in (*probe.VERSIONED, "horovod", "pyspark")},
        tensorflow=versions["tensorflow"],
        horovod_tensorflow=versions["tensorflow"],
        **{name: getattr(GOOD, name) for name in ("gloo", "cores", "memory", "bfloat16")},
    )


def with_version(name, version):
    return dataclasses.replace(GOOD, versions={**GOOD.versions, name: version})


def failures(found, workers=1):
    return [row for row in requirements.check_node(found, workers) if row.state == "fail"]


@pytest.mark.parametrize("found", [GOOD, *map(of_runtime, RUNTIMES)], ids=["local", *(file.stem for file in RUNTIMES)])
def test_the_supported_stacks_pass_without_a_remedy(found):
    rows = requirements.check_node(found)
    assert requirements.all_pass(rows)
    assert [row.remedy for row in rows if row.remedy] == []


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (dataclasses.replace(GOOD, python="3.9.2"), "Python"),
        (dataclasses.replace(GOOD, java=""), "Java"),
        (dataclasses.replace(GOOD, java='openjdk version "11.0.1" 2018-10-16'), "Java"),
        (with_version("keras", "2.15.0"), "Keras"),
        (with_version("petastorm", ""), "Petastorm"),
        (with_version("pyarrow", "17.0.0"), "Spark"),
        (with_version("mlflow", ""), "MLflow"),
        (with_version("horovod", ""), "Horovod"),
        (with_version("horovod", "0.27.0"), "Horovod"),
        (dataclasses.replace(GOOD, horovod_tensorflow="2.16.1"), "Horovod build"),
        (dataclasses.replace(GOOD, horovod_tensorflow=""), "Horovod build"),
        (dataclasses.replace(GOOD, horovod_error="ImportError: undefined symbol"), "Horovod build"),
        (dataclasses.replace(GOOD, gloo=False), "Horovod Gloo"),
        (dataclasses.replace(GOOD, missing_files=("yaml/__init__.py (PyYAML)",)), "packages"),
    ],
)
def test_one_wrong_part_is_one_failed_row_whose_remedy_is_setup(found, name):
    (row,) = failures(found)
    assert row.name == name
    assert "./convoy setup" in row.remedy


def test_a_file_that_a_package_has_lost_is_found(tmp_path, monkeypatch):
    assert packages.missing_files() == ()
    for name, requires in (("Some_Thing", "Requires-Dist: other>=1; python_version>'3'\nRequires-Dist: absent\n"), ("other", "")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        (tmp_path / name).mkdir()
        files = ["__init__.py", "core.so", "notes.txt", "tests/test_it.py"]
        (info / "RECORD").write_text("".join(f"{name}/{file},,\n" for file in files) + "../../../bin/it.py,,\n")
        for file in files[:2]:
            (tmp_path / name / file).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.missing_files(["some-thing"]) == ()
    (tmp_path / "other/__init__.py").unlink()
    (tmp_path / "other/core.so").unlink()
    assert packages.missing_files(["some-thing"]) == ("other/__init__.py (other)",)


def test_a_doctor_that_lacks_a_package_itself_says_so_in_one_line(tmp_path):
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError(\"No module named 'yaml'\")")
    doctor = [sys.executable, str(Path(__file__).parents[2] / "jobs/doctor.py")]
    done = subprocess.run(
        doctor, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == "error: the environment is damaged (No module named 'yaml'); run ./convoy setup\n"
    assert done.returncode == 1


def test_a_tensorflow_that_crashes_on_import_fails_its_row_and_the_horovod_build_but_raises_nothing():
    crashed = dataclasses.replace(
        GOOD, tensorflow="", tensorflow_error="importing it ended Python with exit code -4", horovod_tensorflow="", gloo=False
    )
    assert [row.name for row in failures(crashed)] == ["TensorFlow", "Horovod build"]
    assert "exit code -4" in check.table(requirements.check_node(crashed))


@pytest.mark.parametrize(
    ("found", "row", "reason"),
    [
        (dataclasses.replace(GOOD, python="3.9.2"), "Python", "Convoy is written for 3.10 and later"),
        (with_version("keras", "2.15.0"), "Keras", "Convoy is written for Keras 3"),
        (with_version("pyarrow", "15.0.0"), "Spark", "Spark 4.2 and later refuse pyarrow before 18"),
        (dataclasses.replace(GOOD, tensorflow="2.15.1", horovod_tensorflow="2.15.1"), "TensorFlow", "earlier ones have Keras 2"),
        (dataclasses.replace(GOOD, tensorflow="2.17.0", horovod_tensorflow="2.17.0"), "numpy", "built for numpy 1"),
    ],
)
def test_what_is_known_not_to_work_is_refused_with_the_reason(found, row, reason):
    for rows in (requirements.check_node(found), requirements.check_executor(found, found)):
        failed = {failure.name: failure.needed for failure in rows if failure.state == "fail"}
        assert reason in failed[row]
        assert "is known not to work: " in failed[row]


@pytest.mark.parametrize(
    ("found", "name", "version", "tested"),
    [
        (dataclasses.replace(GOOD, python="3.14.1"), "Python", "3.14.1", "3.10 to 3.13"),
        (dataclasses.replace(GOOD, tensorflow="2.22.0", horovod_tensorflow="2.22.0"), "TensorFlow", "2.22.0", "2.16 to 2.21"),
        (with_version("pyarrow", "27.0.0"), "pyarrow", "27.0.0", "14.0 to 26"),
        (with_version("numpy", "3.0.0"), "numpy", "3.0.0", "1.23 to 2.5"),
        (with_version("mlflow", "4.0.0"), "MLflow", "4.0.0", "2.13 to 3.17"),
        (with_version("horovod", "0.29.0"), "Horovod", "0.29.0", "0.28.1"),
        (with_version("pyspark", "5.0.0"), "Spark", "5.0.0", "3.5 to 4.3"),
    ],
)
def test_what_is_newer_than_tested_is_a_warning_that_names_what_was_tested(found, name, version, tested):
    for rows in (requirements.check_node(found), requirements.check_executor(found, found)):
        assert requirements.all_pass(rows)
        (row,) = [row for row in rows if row.state == "note"]
        assert (row.name, row.found, row.needed) == (name, f"{version}, newer than tested", f"{tested} (tested)")
        assert row.remedy


def test_what_is_older_than_tested_is_a_warning_too():
    (row,) = [row for row in requirements.check_node(with_version("petastorm", "0.11.5")) if row.state != "ok"]
    assert (row.name, row.state, row.found) == ("Petastorm", "note", "0.11.5, older than tested")


@pytest.mark.parametrize(
    ("spark", "java", "state"),
    [
        ("3.5.0", "1.8.0_412", "ok"),
        ("3.5.2", "11.0.1", "ok"),
        ("3.5.2", "21.0.1", "fail"),
        ("4.0.0", "1.8.0_412", "fail"),
        ("4.0.0", "17.0.9", "ok"),
        ("4.3.0", "21.0.1", "ok"),
        ("4.3.0", "25.0.1", "note"),
        ("", "11.0.1", "ok"),
    ],
)
def test_java_is_held_against_what_the_spark_runs_on(spark, java, state):
    found = dataclasses.replace(with_version("pyspark", spark), java=f'openjdk version "{java}" 2023-10-17')
    (row,) = [row for row in requirements.check_node(found) if row.name == "Java"]
    assert row.state == state
    assert bool(row.remedy) == (state != "ok")


def test_with_more_workers_than_cores_the_remedy_names_the_number_that_fits():
    (row,) = failures(GOOD, workers=5)
    assert row.name == "cores"
    assert "--workers 4" in row.remedy


def test_little_memory_and_missing_bfloat16_are_notes_that_do_not_prevent_training():
    small = dataclasses.replace(GOOD, memory=requirements.GIGABYTE, bfloat16=())
    rows = requirements.check_node(small)
    assert requirements.all_pass(rows)
    assert [row.name for row in rows if row.state == "note"] == ["memory", "precision"]


def test_a_machine_with_nothing_gives_a_full_table():
    nothing = probe.NodeReport(python="3.11.7")
    rows = requirements.check_node(nothing)
    assert not requirements.all_pass(rows)
    assert check.table(rows).count("missing") >= 6


def test_the_table_shows_found_and_needed_with_the_remedy_below():
    lines = check.table(requirements.check_node(with_version("keras", "2.15.0"))).splitlines()
    (index,) = [number for number, line in enumerate(lines) if "Keras " in line and line.startswith("fail")]
    assert "2.15.0" in lines[index]
    assert "3.2 to 3.15" in lines[index]
    assert lines[index + 1].strip() == "-> run ./convoy setup"


def test_release_candidates_and_local_versions_are_compared_by_their_numbers():
    assert requirements.all_pass(requirements.check_node(with_version("keras", "3.15.0rc1")))
    assert requirements.all_pass(requirements.check_node(with_version("numpy", "2.5.4+local")))


def test_an_import_that_kills_python_is_reported_rather_than_raised(tmp_path, monkeypatch):
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe.probe_node()
    assert found.tensorflow == ""
    assert "exit code 7" in found.tensorflow_error


def test_workers_below_one_are_rejected_before_any_check(capsys):
    with pytest.raises(SystemExit) as refusal:
        doctor.main(["--workers", "0"])
    assert refusal.value.code == 2
    assert "--workers 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_probe_agrees_with_the_thorough_one_on_this_machine():
    thorough, quick = probe.probe_node(), probe.probe_quickly()
    assert quick.tensorflow == thorough.tensorflow
    assert (quick.horovod_tensorflow, quick.gloo) == (thorough.horovod_tensorflow, thorough.gloo)
    assert quick.versions == thorough.versions


def executor_failures(found):
    return [row for row in requirements.check_executor(found, GOOD) if row.state == "fail"]


def test_an_executor_like_the_driver_passes():
    assert executor_failures(GOOD) == []


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (dataclasses.replace(GOOD, python="3.12.4"), "Python, as on the driver"),
        (with_version("keras", "3.2.1"), "keras, as on the driver"),
        (with_version("pyarrow", "24.0.0"), "pyarrow, as on the driver"),
        (dataclasses.replace(GOOD, horovod_tensorflow="2.16.1"), "Horovod build"),
        (dataclasses.replace(GOOD, gloo=False), "Horovod Gloo"),
        (dataclasses.replace(GOOD, sees_run_dir=False), "run folder"),
        (dataclasses.replace(GOOD, run_dir_takes="nothing"), "run folder"),
    ],
)
def test_an_executor_that_differs_fails_in_the_row_that_differs(found, name):
    (row,) = executor_failures(found)
    assert row.name == name
    assert row.remedy


def test_a_run_folder_that_takes_no_appends_is_a_note_that_says_how_it_is_handled():
    rows = requirements.check_executor(dataclasses.replace(GOOD, run_dir_takes="whole files"), GOOD)
    (row,) = [row for row in rows if row.state != "ok"]
    assert (row.name, row.state) == ("run folder", "note")
    assert "copied there about once a second" in row.remedy


def test_a_patch_release_of_python_may_differ():
    assert executor_failures(dataclasses.replace(GOOD, python="3.13.9")) == []


def test_a_client_of_spark_connect_needs_no_java(monkeypatch):
    monkeypatch.setenv("SPARK_REMOTE", "sc://head:15002")
    assert requirements.all_pass(requirements.check_node(dataclasses.replace(GOOD, java="")))


def test_a_training_that_is_bound_to_run_out_of_memory_is_refused(monkeypatch):
    monkeypatch.setattr(check, "memory", lambda: Memory(100_000_000, 1_500_000_000, "its control group"))
    check.check_memory(1)
    told = (
        r"only 1.5 GB of memory may be used here \(the limit of its control group\), and a training with 2 workers on one "
        "machine takes 1.6 GB at least; raise the limit, or lower launch.workers$"
    )
    with pytest.raises(LaunchError, match=told):
        check.check_memory(2)
