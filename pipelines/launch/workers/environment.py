"""Environment variables that Horovod, TensorFlow and CUDA read when a rank starts."""

import os
from collections.abc import Mapping, Sequence

from pipelines.config import LaunchConfig
from pipelines.launch import slots
from pipelines.launch.rendezvous.server import RankPlacement
from pipelines.system.tensorflow_env import tensorflow_environment

# Horovod ends a stalled run only after the watchdog would, which gives a better diagnosis.
_HOROVOD_EXTRA_SECONDS = 30


def horovod_environment(placement: RankPlacement, launch: LaunchConfig) -> dict[str, str]:
    """The variables that configure Horovod and TensorFlow for a rank."""
    slot = placement.slot
    address, _, port = placement.server.rpartition(":")
    cycle = {"HOROVOD_CYCLE_TIME": f"{launch.cycle_milliseconds:g}"} if launch.cycle_milliseconds else {}
    threads = slots.threads_per_worker(launch.threads_per_worker, slots.own_cores(), slot.local_size)
    horovod_limit = str(launch.stall_shutdown_seconds + _HOROVOD_EXTRA_SECONDS)
    return {
        "HOROVOD_RANK": str(slot.rank),
        "HOROVOD_SIZE": str(slot.size),
        "HOROVOD_LOCAL_RANK": str(slot.local_rank),
        "HOROVOD_LOCAL_SIZE": str(slot.local_size),
        "HOROVOD_CROSS_RANK": str(slot.cross_rank),
        "HOROVOD_CROSS_SIZE": str(slot.cross_size),
        "HOROVOD_HOSTNAME": slot.hostname,
        # Read by `pipelines.train.collectives.hosts`, before Horovod connects the ranks.
        "CONVOY_MACHINES": ",".join(str(placement.machines.index(machine)) for machine in placement.machines),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
        "HOROVOD_GLOO_IFACE": placement.interface,
        # So that the same training ends with the same bits (`pipelines.train.collectives.buckets`).
        "HOROVOD_DISABLE_GROUP_FUSION": "1",
        # Gloo's limit holds for every operation, not only while the ranks connect.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": horovod_limit,
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(launch.stall_warning_seconds),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": horovod_limit,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        **cycle,
    } | tensorflow_environment(os.environ)


def gpu_environment(resources: Mapping[str, Sequence[str]], interface: str) -> dict[str, str]:
    """The variables that restrict a rank to the GPUs that Spark assigned to its task.

    Args:
        resources: the task's resources, addresses by name.
        interface: network interface on which the ranks reach each other; NCCL might choose another one.
    """
    if not resources.get("gpu"):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(resources["gpu"]), "NCCL_SOCKET_IFNAME": interface}
