"""Spark's settings that decide whether and how well workers run, each with its reason.

What a session of our own can set, `pipelines.launch.session` sets. A cluster's session is as it is, so it is looked at here.
"""

import re
from collections.abc import Mapping, Sequence

from pipelines.launch.preflight.probe import NodeReport
from pipelines.launch.preflight.requirements import GIGABYTE, MEMORY_PER_WORKER_GB, CheckResult

_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "": 2**20}
_HEAP = "1g"
# What a JVM takes beside its heap: https://spark.apache.org/docs/3.5.0/configuration.html (spark.executor.memoryOverheadFactor).
_OVERHEAD = 1.1


def check_spark_conf(conf: Mapping[str, str], master: str, executors: Sequence[NodeReport], workers: int) -> list[CheckResult]:
    """One row for each setting that matters here.

    Args:
        conf: the session's settings.
        master: its master.
        executors: what the executors have; those that have the same once.
        workers: how many are wanted.
    """
    rows = [_dynamic_allocation(conf), _speculation(conf)]
    if master.startswith("local"):
        # One JVM, whose heap is that of the driver.
        return [*rows, *_gpus(conf, executors)]
    return [*rows, _task_cpus(conf), *_memory(conf, executors, workers), *_gpus(conf, executors)]


def size(text: str) -> int:
    """Bytes of a size as Spark writes it, such as 8g or 512m; a bare number is in MiB."""
    found = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", text.strip().lower())
    return int(found[1]) * _UNITS[found[2]] if found else 0


def _dynamic_allocation(conf: Mapping[str, str]) -> CheckResult:
    """All workers run at once or not at all, which Spark refuses to promise while executors come and go."""
    found = conf.get("spark.dynamicAllocation.enabled", "false")
    name, needed = "dynamic allocation", "off: barrier stages exclude it"
    if found != "true":
        return CheckResult(name, "off", needed)
    return CheckResult(name, "on", needed, "fail", "set spark.dynamicAllocation.enabled=false and fix the number of executors")


def _speculation(conf: Mapping[str, str]) -> CheckResult:
    """Barrier stages are never speculated on, but ingest would do work twice and throw half of it away."""
    if conf.get("spark.speculation", "false") != "true":
        return CheckResult("speculation", "off", "off")
    return CheckResult(
        "speculation", "on", "off", "note", "set spark.speculation=false; ingest and scoring do work twice with it"
    )


def _task_cpus(conf: Mapping[str, str]) -> CheckResult:
    """Its share of an executor's cores decides how many workers a node gets; each then has its node's cores shared out."""
    wanted, cores = int(conf.get("spark.task.cpus", "1")), int(conf.get("spark.executor.cores", "0"))
    shown = f"spark.task.cpus={wanted}"
    if cores and wanted > cores:
        remedy = f"set spark.task.cpus to {cores} or less (spark.executor.cores={cores})"
        return CheckResult("cores of a task", shown, "no more than an executor has", "fail", remedy)
    return CheckResult("cores of a task", shown, "the cores of a node for one worker on each")


def _memory(conf: Mapping[str, str], executors: Sequence[NodeReport], workers: int) -> list[CheckResult]:
    """A rank is a process beside the executor's JVM, with memory of its own, which the JVM's settings must leave it."""
    rows = []
    heap = size(conf.get("spark.executor.memory", _HEAP))
    for found in executors:
        tasks = max(1, found.cores // int(conf.get("spark.task.cpus", "1")))
        wanted = min(tasks, workers) * MEMORY_PER_WORKER_GB * GIGABYTE
        left = found.memory - heap * _OVERHEAD
        if found.memory and left < wanted:
            shown = f"{max(left, 0) / GIGABYTE:.1f} GB beside spark.executor.memory={heap / GIGABYTE:.1f}g"
            needed = f"about {wanted / GIGABYTE:.1f} GB for TensorFlow"
            rows.append(
                CheckResult(f"memory of {found.host}", shown, needed, "note", "lower spark.executor.memory, or take larger nodes")
            )
    return rows


def _gpus(conf: Mapping[str, str], executors: Sequence[NodeReport]) -> list[CheckResult]:
    """A rank takes the GPU that Spark assigned to its task; without that, the ranks of a node take them in turn."""
    rows = []
    amount = conf.get("spark.task.resource.gpu.amount", "")
    for found in executors:
        if not found.gpus:
            continue
        name = f"GPUs of {found.host}"
        if amount != "1":
            shown, remedy = f"{found.gpus}, not assigned to tasks", "set spark.task.resource.gpu.amount=1"
            rows.append(CheckResult(name, shown, "one for each task", "note", remedy))
        if not found.nccl:
            shown, remedy = (
                "Horovod without NCCL",
                "build Horovod with HOROVOD_GPU_OPERATIONS=NCCL; gradients go through the host",
            )
            rows.append(CheckResult(name, shown, "Horovod with NCCL", "note", remedy))
    return rows
