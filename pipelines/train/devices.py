"""The devices that a rank computes on: one GPU, or CPU threads. The GPU code has never run on a GPU."""

import os

import horovod.tensorflow as hvd
import tensorflow as tf

from pipelines.errors import LaunchError


def use_own_gpu() -> tuple[int, int] | None:
    """Restrict TensorFlow to this rank's GPU, with memory growth. Call after `hvd.init` and before TensorFlow's first operation.

    If Spark assigns GPUs to tasks, the supervisor has hidden all others; otherwise each rank takes the one of its local rank.

    Returns:
        the GPU's compute capability, such as (8, 0); None if there is no GPU.

    Raises:
        LaunchError: the node has fewer GPUs than ranks.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    gpu = gpus[gpu_index(len(gpus), hvd.local_rank(), hvd.local_size())]
    tf.config.set_visible_devices(gpu, "GPU")
    # Otherwise TensorFlow takes all of the memory and leaves none for Horovod's buffers.
    tf.config.experimental.set_memory_growth(gpu, True)
    major, minor = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    return int(major), int(minor)


def gpu_index(count: int, local_rank: int, local_size: int) -> int:
    """Index of this rank's GPU among the visible ones. Raises LaunchError if there are several, but fewer than local ranks."""
    if count == 1:
        # The assigned one. That two ranks share a GPU cannot be seen here.
        return 0
    if count < local_size:
        raise LaunchError(
            f"{local_size} workers on a node with {count} GPUs; set spark.task.resource.gpu.amount=1, or use fewer workers"
        )
    return local_rank


def use_threads(threads: int) -> int:
    """Limit TensorFlow's threads per operation; 0 for its default. Call before TensorFlow's first operation.

    Returns:
        the number of threads per operation.
    """
    if threads == 0:
        return os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Operations that run concurrently would compete for the same cores.
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 2)
    return threads
