"""Checks of the Spark settings that decide whether and how well workers run, each with its reason.

`pipelines.launch.session` sets them in sessions that it creates; a cluster's session comes with its own, so it is checked here.
"""

import re
from collections.abc import Mapping, Sequence

from pipelines.launch.preflight.probe import NodeReport
from pipelines.launch.preflight.requirements import GIGABYTE, MEMORY_PER_WORKER_GB, CheckResult

SETTINGS = (
    "spark.dynamicAllocation.enabled",
    "spark.speculation",
    "spark.task.cpus",
    "spark.task.resource.gpu.amount",
    "spark.executor.cores",
    "spark.executor.memory",
)
"""All settings that are checked."""
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "": 2**20}
_HEAP = "1g"
# A JVM's memory besides its heap: https://spark.apache.org/docs/3.5.0/configuration.html (spark.executor.memoryOverheadFactor).
_OVERHEAD = 1.1


def check_spark_conf(conf: Mapping[str, str], master: str, executors: Sequence[NodeReport], workers: int) -> list[CheckResult]:
    """One row for each setting that matters to training.

    Args:
        conf: the session's `SETTINGS`, those that are set.
        master: its master URL.
        executors: distinct reports of the executors.
        workers: number of workers.
    """
    rows = [_dynamic_allocation(conf), _speculation(conf)]
    if master.startswith("local"):
        # There are no executors: tasks run in the driver's JVM.
        return [*rows, *_gpus(conf, executors)]
    return [*rows, _task_cpus(conf), *_memory(conf, executors, workers), *_gpus(conf, executors)]


def size(text: str) -> int:
    """Bytes of a size in Spark's notation, such as 8g or 512m; a bare number is in MiB."""
    match = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", text.strip().lower())
    return int(match[1]) * _UNITS[match[2]] if match else 0


def _dynamic_allocation(conf: Mapping[str, str]) -> CheckResult:
    """A barrier stage starts all workers or none, and Spark does not run one under dynamic allocation."""
    enabled = conf.get("spark.dynamicAllocation.enabled", "false")
    name, needed = "dynamic allocation", "off: barrier stages exclude it"
    if enabled != "true":
        return CheckResult(name, "off", needed)
    return CheckResult(name, "on", needed, "fail", "set spark.dynamicAllocation.enabled=false and fix the number of executors")


def _speculation(conf: Mapping[str, str]) -> CheckResult:
    """Spark never speculates on barrier stages, but ingest would do work twice and discard half of it."""
    if conf.get("spark.speculation", "false") != "true":
        return CheckResult("speculation", "off", "off")
    return CheckResult(
        "speculation", "on", "off", "note", "set spark.speculation=false; with it, ingest and scoring do work twice"
    )


def _task_cpus(conf: Mapping[str, str]) -> CheckResult:
    """Cores per task decide how many workers a node gets; the workers of a node then share its cores equally."""
    task_cpus, cores = int(conf.get("spark.task.cpus", "1")), int(conf.get("spark.executor.cores", "0"))
    shown = f"spark.task.cpus={task_cpus}"
    if cores and task_cpus > cores:
        remedy = f"set spark.task.cpus to {cores} or less (spark.executor.cores={cores})"
        return CheckResult("cores per task", shown, "no more than an executor has", "fail", remedy)
    return CheckResult("cores per task", shown, "a node's cores, for one worker per node")


def _memory(conf: Mapping[str, str], executors: Sequence[NodeReport], workers: int) -> list[CheckResult]:
    """A rank is a separate process beside the executor's JVM, whose memory settings must leave room for it."""
    rows = []
    heap = size(conf.get("spark.executor.memory", _HEAP))
    for executor in executors:
        tasks = max(1, executor.cores // int(conf.get("spark.task.cpus", "1")))
        required = min(tasks, workers) * MEMORY_PER_WORKER_GB * GIGABYTE
        left = executor.memory - heap * _OVERHEAD
        if executor.memory and left < required:
            name = f"memory of {executor.host}"
            shown = f"{max(left, 0) / GIGABYTE:.1f} GB left by spark.executor.memory={heap / GIGABYTE:.1f}g"
            needed = f"about {required / GIGABYTE:.1f} GB for TensorFlow"
            rows.append(CheckResult(name, shown, needed, "note", "lower spark.executor.memory, or use larger nodes"))
    return rows


def _gpus(conf: Mapping[str, str], executors: Sequence[NodeReport]) -> list[CheckResult]:
    """A rank uses the GPU that Spark assigned to its task; without assignment, by its local rank."""
    rows = []
    amount = conf.get("spark.task.resource.gpu.amount", "")
    for executor in executors:
        if not executor.gpus:
            continue
        name = f"GPUs of {executor.host}"
        if amount != "1":
            shown, remedy = f"{executor.gpus}, not assigned to tasks", "set spark.task.resource.gpu.amount=1"
            rows.append(CheckResult(name, shown, "one per task", "note", remedy))
        if not executor.nccl:
            remedy = "build Horovod with HOROVOD_GPU_OPERATIONS=NCCL; until then gradients go through the host's memory"
            rows.append(CheckResult(name, "Horovod without NCCL", "Horovod with NCCL", "note", remedy))
    return rows
