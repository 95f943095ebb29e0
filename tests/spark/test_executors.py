import dataclasses
import sys
from pathlib import Path

import pyspark
import pytest
from support.ranks import own_task, own_task_and_those_met

from pipelines.errors import LaunchError
from pipelines.launch import tasks
from pipelines.launch.preflight import check
from pipelines.launch.preflight.probe import probe_quickly
from pipelines.launch.preflight.tested import TESTED
from pipelines.system import connect

ANOTHER_NAME = str(Path(sys.executable).with_name(f"python{sys.version_info.major}.{sys.version_info.minor}"))


@pytest.mark.parametrize("python", [sys.executable, ANOTHER_NAME], ids=["probed here", "probed by a Spark job"])
def test_executors_report_what_they_have_and_identical_reports_are_listed_once(spark, tmp_path, monkeypatch, python):
    # Another name of the same Python, so that only a Spark job can tell what it is.
    monkeypatch.setattr(spark.sparkContext, "pythonExec", python)
    (tmp_path / "config.yml").write_text("")
    reports = check.probe_executors(spark, 2, str(tmp_path))
    assert reports == [probe_quickly()]
    check.check_cluster(spark, 2, str(tmp_path))


def test_a_run_folder_that_executors_do_not_see_is_rejected_with_the_remedy(spark, tmp_path):
    with pytest.raises(
        LaunchError, match=r"^executor on \S+: run folder is not visible, .*; set launch\.runs_uri to a folder that all"
    ):
        check.check_cluster(spark, 1, str(tmp_path / "elsewhere"))


def test_warnings_about_executors_are_told(spark, tmp_path, monkeypatch):
    older = dataclasses.replace(TESTED["numpy"], oldest="0.9", newest="1.0")
    monkeypatch.setitem(TESTED, "numpy", older)
    (tmp_path / "config.yml").write_text("")
    report = probe_quickly()
    told = f"numpy: {report.versions['numpy']}, newer than tested, preferred: 0.9 to 1.0 (tested); "
    assert any(line.startswith(told) for line in check.check_cluster(spark, 2, str(tmp_path)))
    rows = check.check_with_spark(report, 2)
    assert [(row.name, row.state) for row in rows if row.name.startswith("executor")] == [
        (f"executor 0 ({report.host}): numpy", "note"),
        (f"executor 0 ({report.host})", "ok"),
    ]


ANOTHER_PYTHON = """#!/bin/sh
exec env PYTHONPATH={folder}:$PYTHONPATH {python} "$@"
"""
ANOTHER_VERSION = """
import collections, sys
major, minor, *rest = sys.version_info
sys.version_info = collections.namedtuple("version_info", "major minor micro releaselevel serial")(major, minor + 1, *rest)
"""


def test_executors_with_another_python_are_refused_in_one_line(spark, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_VERSION)
    python = tmp_path / "python"
    python.write_text(ANOTHER_PYTHON.format(folder=tmp_path, python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", str(python))
    with pytest.raises(LaunchError) as refusal:
        check.check_cluster(spark, 2, str(tmp_path))
    remedy = "set PYSPARK_PYTHON to the same Python on all nodes"
    assert str(refusal.value) == f"executors run a different Python than the driver; {remedy}"


def test_more_workers_than_slots_are_rejected_before_anything_runs(spark):
    with pytest.raises(LaunchError, match=r"launch\.workers=3: only 2 task slots"):
        check.check_cluster(spark, 3)


@pytest.mark.parametrize("remote", [False, True], ids=["RDD", "DataFrame"])
@pytest.mark.parametrize("barrier", [False, True], ids=["plain", "barrier"])
def test_tasks_return_what_the_function_returns_in_their_order(spark, monkeypatch, remote, barrier):
    # The way of Spark Connect works on any session.
    monkeypatch.setattr(connect, "is_remote", lambda _: remote)
    function, expected = (own_task_and_those_met, [(0, ["0", "1"]), (1, ["0", "1"])]) if barrier else (own_task, [0, 1])
    assert tasks.run(spark, function, 2, barrier=barrier) == expected


def test_what_spark_connect_cannot_ask_is_found_in_other_ways(spark, monkeypatch):
    asked = connect.parallelism(spark)
    assert connect._planned_parts(spark) == connect._counted_parts(spark) == asked == 2
    names = ("spark.master", "spark.speculation", "spark.executor.memory", "spark.dynamicAllocation.enabled")
    told = [connect.setting(spark, name, "none") for name in names]
    assert told[0] == "local[2]"
    monkeypatch.setattr(connect, "is_remote", lambda _: True)
    assert [connect.setting(spark, name, "none") for name in names] == told


def test_python_workers_do_not_list_sparks_archives_for_every_task(spark):
    def archives(_):
        import pyspark

        return [pyspark.__file__, *(path for path in sys.path if path.endswith((".jar", ".zip")) and "pyspark" in path)]

    (found,) = spark.sparkContext.parallelize([0], 1).map(archives).collect()
    assert found == [pyspark.__file__]
