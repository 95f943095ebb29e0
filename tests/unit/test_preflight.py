import dataclasses

import pytest

from jobs import doctor
from pipelines.launch.preflight import check, probe, requirements

GOOD = probe.NodeReport(
    python="3.11.7",
    java='openjdk version "17.0.9" 2023-10-17',
    versions={
        "keras": "3.15.1",
        "petastorm": "0.13.1",
        "pyarrow": "14.0.2",
        "numpy": "1.26.4",
        "mlflow": "3.17.2",
        "horovod": "0.28.1",
    },
    tensorflow="2.18.1",
    horovod_tensorflow="2.18.1",
    gloo=True,
    cores=4,
    memory=16 * requirements.GIGABYTE,
    bfloat16=("amx_bf16",),
)

DATABRICKS_15_4 = dataclasses.replace(
    GOOD,
    python="3.11.0",
    java='openjdk version "1.8.0_412"',
    versions={
        "keras": "3.2.1",
        "petastorm": "0.12.1",
        "pyarrow": "14.0.1",
        "numpy": "1.23.5",
        "mlflow": "2.13.1",
        "horovod": "0.28.1",
    },
    tensorflow="2.16.1",
    horovod_tensorflow="2.16.1",
)


def with_version(name, version):
    return dataclasses.replace(GOOD, versions={**GOOD.versions, name: version})


def failures(found, workers=1):
    return [row for row in requirements.check_node(found, workers) if row.state == "fail"]


@pytest.mark.parametrize("found", [GOOD, DATABRICKS_15_4], ids=["local", "databricks 15.4"])
def test_both_supported_stacks_pass_without_a_remedy(found):
    rows = requirements.check_node(found)
    assert requirements.all_pass(rows)
    assert [row.remedy for row in rows if row.remedy] == []


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (dataclasses.replace(GOOD, python="3.9.2"), "Python"),
        (dataclasses.replace(GOOD, python="3.12.0"), "Python"),
        (dataclasses.replace(GOOD, java=""), "Java"),
        (dataclasses.replace(GOOD, java='openjdk version "21.0.1" 2023-10-17'), "Java"),
        (with_version("keras", "2.15.0"), "Keras"),
        (with_version("petastorm", "0.11.5"), "Petastorm"),
        (with_version("pyarrow", "15.0.0"), "pyarrow"),
        (with_version("numpy", "2.0.0"), "numpy"),
        (with_version("mlflow", ""), "MLflow"),
        (with_version("horovod", ""), "Horovod"),
        (dataclasses.replace(GOOD, horovod_tensorflow="2.16.1"), "Horovod build"),
        (dataclasses.replace(GOOD, horovod_tensorflow=""), "Horovod build"),
        (dataclasses.replace(GOOD, horovod_error="ImportError: undefined symbol"), "Horovod build"),
        (dataclasses.replace(GOOD, gloo=False), "Horovod Gloo"),
    ],
)
def test_one_wrong_part_is_one_failed_row_whose_remedy_is_setup(found, name):
    (row,) = failures(found)
    assert row.name == name
    assert "./convoy setup" in row.remedy


def test_a_tensorflow_that_crashes_on_import_fails_its_row_and_the_horovod_build_but_raises_nothing():
    crashed = dataclasses.replace(
        GOOD, tensorflow="", tensorflow_error="importing it ended Python with exit code -4", horovod_tensorflow="", gloo=False
    )
    assert [row.name for row in failures(crashed)] == ["TensorFlow", "Horovod build"]
    assert "exit code -4" in check.table(requirements.check_node(crashed))


def test_a_tensorflow_that_horovod_does_not_compile_with_is_rejected():
    newer = dataclasses.replace(GOOD, tensorflow="2.19.0", horovod_tensorflow="2.19.0")
    assert [row.name for row in failures(newer)] == ["TensorFlow"]


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
    lines = check.table(requirements.check_node(with_version("pyarrow", "15.0.0"))).splitlines()
    (index,) = [number for number, line in enumerate(lines) if "pyarrow " in line and line.startswith("fail")]
    assert "15.0.0" in lines[index]
    assert "below 15" in lines[index]
    assert lines[index + 1].strip() == "-> run ./convoy setup"


def test_release_candidates_and_local_versions_are_compared_by_their_numbers():
    assert requirements.all_pass(requirements.check_node(with_version("keras", "3.16.0rc1")))
    assert requirements.all_pass(requirements.check_node(with_version("numpy", "1.26.4+local")))


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
        (dataclasses.replace(GOOD, python="3.10.4"), "Python, as on the driver"),
        (with_version("keras", "3.2.1"), "keras, as on the driver"),
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
    assert executor_failures(dataclasses.replace(GOOD, python="3.11.9")) == []
