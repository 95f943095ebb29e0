"""The devices that a rank computes on: one GPU for each rank, or threads. Nothing here has run on a GPU."""

import os

import horovod.tensorflow as hvd
import tensorflow as tf

from pipelines.errors import LaunchError


def use_own_gpu() -> tuple[int, int] | None:
    """Take this rank's GPU, with memory that grows as needed. Must come before TensorFlow's first operation, after `hvd.init`.

    The supervisor has hidden all others where Spark assigns GPUs to tasks; else ranks of a node take them in turn.

    Returns:
        its compute capability, such as (8, 0); None where there is no GPU.

    Raises:
        LaunchError: the node has fewer GPUs than ranks.
    """
    found = tf.config.list_physical_devices("GPU")
    if not found:
        return None
    mine = found[gpu_index(len(found), hvd.local_rank(), hvd.local_size())]
    tf.config.set_visible_devices(mine, "GPU")
    # Otherwise TensorFlow takes the whole memory, and leaves none to Horovod's buffers.
    tf.config.experimental.set_memory_growth(mine, True)
    major, minor = tf.config.experimental.get_device_details(mine).get("compute_capability", (0, 0))
    return int(major), int(minor)


def gpu_index(count: int, local_rank: int, local_size: int) -> int:
    """Which of the visible GPUs is this rank's. Raises LaunchError when there are several, and fewer than ranks."""
    if count == 1:
        # That which was assigned; two ranks that share one see each other in the memory, not here.
        return 0
    if count < local_size:
        raise LaunchError(
            f"{local_size} workers on a node with {count} GPUs; set spark.task.resource.gpu.amount=1, or use fewer workers"
        )
    return local_rank


def use_threads(threads: int) -> int:
    """Limit TensorFlow to this many threads per operation, 0 for its own choice. Must come before the first operation."""
    if threads == 0:
        return os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Few operations at a time: they would share the same cores.
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 2)
    return threads
