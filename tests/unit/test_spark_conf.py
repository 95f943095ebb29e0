import dataclasses

import pytest

from pipelines.launch.preflight import probe
from pipelines.launch.preflight.requirements import GIGABYTE
from pipelines.launch.preflight.spark_conf import check_spark_conf, size

NODE = probe.NodeReport(python="3.11.0", host="n1", cores=4, memory=16 * GIGABYTE)
GOOD = {"spark.task.cpus": "4", "spark.executor.cores": "4", "spark.executor.memory": "8g"}


def states(conf, master="spark://m:7077", executors=(NODE,), workers=2):
    return {row.name: row.state for row in check_spark_conf(conf, master, executors, workers)}


def test_a_cluster_with_fixed_executors_one_task_per_node_and_memory_for_tensorflow_passes():
    assert set(states(GOOD).values()) == {"ok"}


@pytest.mark.parametrize(
    ("setting", "name", "state"),
    [
        ({"spark.dynamicAllocation.enabled": "true"}, "dynamic allocation", "fail"),
        ({"spark.speculation": "true"}, "speculation", "note"),
        ({"spark.task.cpus": "8"}, "cores per task", "fail"),
        ({"spark.executor.memory": "14g"}, "memory of n1", "note"),
    ],
)
def test_each_harmful_setting_is_one_row_with_its_remedy(setting, name, state):
    rows = check_spark_conf(GOOD | setting, "spark://m:7077", [NODE], 2)
    (row,) = [row for row in rows if row.state != "ok"]
    assert (row.name, row.state) == (name, state)
    assert row.remedy


def test_more_workers_on_a_node_need_more_memory_beside_the_jvm():
    conf = GOOD | {"spark.task.cpus": "1", "spark.executor.memory": "10g"}
    assert "memory of n1" not in states(conf, workers=2)
    assert states(conf, workers=4)["memory of n1"] == "note"
    unknown = dataclasses.replace(NODE, memory=0)
    assert "memory of n1" not in states(conf, executors=[unknown], workers=4)


def test_on_one_machine_executor_settings_are_ignored():
    assert set(states({"spark.task.cpus": "8"}, master="local[2]")) == {"dynamic allocation", "speculation"}


def test_gpus_that_spark_does_not_assign_and_a_horovod_without_nccl_are_notes():
    with_gpus = dataclasses.replace(NODE, gpus=4)
    rows = check_spark_conf(GOOD, "spark://m:7077", [with_gpus], 2)
    assert [row.found for row in rows if row.state == "note"] == ["4, not assigned to tasks", "Horovod without NCCL"]
    assigned = GOOD | {"spark.task.resource.gpu.amount": "1"}
    assert set(states(assigned, executors=[dataclasses.replace(with_gpus, nccl=True)]).values()) == {"ok"}


@pytest.mark.parametrize(("text", "expected"), [("8g", 8 * GIGABYTE), ("512m", 2**29), ("1024", GIGABYTE), ("1GB", GIGABYTE)])
def test_sizes_are_parsed_in_sparks_notation(text, expected):
    assert size(text) == expected
