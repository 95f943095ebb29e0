import sys
from pathlib import Path

import pyspark
import pytest

from pipelines.errors import LaunchError
from pipelines.launch.preflight import check
from pipelines.launch.preflight.probe import probe_quickly

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


def test_more_workers_than_slots_are_rejected_before_anything_runs(spark):
    with pytest.raises(LaunchError, match=r"launch\.workers=3: only 2 task slots"):
        check.check_cluster(spark, 3)


def test_python_workers_do_not_list_sparks_archives_for_every_task(spark):
    def archives(_):
        import pyspark

        return [pyspark.__file__, *(path for path in sys.path if path.endswith((".jar", ".zip")) and "pyspark" in path)]

    (found,) = spark.sparkContext.parallelize([0], 1).map(archives).collect()
    assert found == [pyspark.__file__]
