"""Functions that `scaling.py` runs on drivers and ranks."""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from pipelines.config import LaunchConfig
from pipelines.launch import ranks, slots

NETWORK = "convnet_dropout"
_TURNS = 4


def task_slots(spark: Any) -> int:
    return slots.available(spark)


def run(spark: Any, function: Any, workers: int, arguments: tuple[Any, ...], runs: str) -> list[Any]:
    """Run `function(*arguments)` on ranks with one thread each."""
    launch = LaunchConfig(runs_uri=runs, threads_per_worker=1, start_timeout_seconds=300)
    return ranks.run(function, workers, arguments, spark=spark, launch=launch)


def reductions(sizes: list[int], seconds: float) -> dict[int, float]:
    """Median seconds of an allreduce by size in bytes; each is measured for `seconds`, but at least five times."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    medians = {}
    for size in sizes:
        tensor, name = tf.ones(size // 4), f"of-{size}"
        times = [_timed(lambda: hvd.allreduce(tensor, name=name).numpy()) for _ in range(3)]  # noqa: B023
        # All ranks must agree on the number.
        slowest = float(hvd.allreduce(tf.constant(max(times)), op=hvd.Max, name=f"slowest-{size}"))
        count = max(5, min(200, int(seconds / slowest)))
        medians[size] = statistics.median(_timed(lambda: hvd.allreduce(tensor, name=name).numpy()) for _ in range(count))  # noqa: B023
    hvd.shutdown()
    return medians


def steps(batches: dict[str, int], count: int) -> dict[str, Any]:
    """Mean seconds of a training step of a real network by batch size, and the size of its gradients in bytes.

    `seconds` are with Convoy's buckets, `seconds_together` with one reduction of all gradients after the backward pass, and, with
    several ranks on each host, `seconds_flat` with Horovod between all of them instead of one a host; they take turns.
    """
    import horovod.tensorflow as hvd
    import keras
    import numpy as np

    from pipelines.data.table.schema import DataSpec
    from pipelines.models import registry
    from pipelines.train.collectives.horovod import broadcast_state
    from pipelines.train.collectives.hosts import HostReducer, leaders, machines
    from pipelines.train.devices import use_threads
    from pipelines.train.optim.distributed import with_allreduce

    several = 1 < len(set(machines())) < len(machines())
    hvd.init(process_sets=[leaders()] if several else [])
    use_threads(1)
    rng = np.random.default_rng(hvd.rank())
    flat = {"bucket_bytes": 1_000_000}
    ways: dict[str, dict[str, Any]] = {"seconds": flat, "seconds_together": {"bucket_bytes": sys.maxsize}}
    if several:
        ways |= {"seconds": {"reducer": HostReducer("none", **flat)}, "seconds_flat": flat}
    result: dict[str, Any] = {way: {} for way in ways}
    for name, batch in batches.items():
        images = rng.integers(0, 256, (batch, 28, 28, 1)).astype("uint8")
        labels = rng.integers(0, 10, batch)
        models = {}
        for way, averaging in ways.items():
            model = registry.build(NETWORK, DataSpec(shape=(28, 28, 1), dtype="uint8", value_range=(0.0, 255.0)), 10)
            optimizer = with_allreduce(keras.optimizers.Adam, **averaging)(1e-3)
            model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", jit_compile=False)
            broadcast_state(model, optimizer)
            for _ in range(3):
                model.train_on_batch(images, labels)
            models[way] = model
            result["gradient_bytes"] = 4 * sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        seconds: dict[str, float] = dict.fromkeys(ways, 0.0)
        for _ in range(_TURNS):
            for way, model in models.items():
                # The mean, because with a CPU quota only some steps wait for the processor.
                started = time.perf_counter()
                for _ in range(count // _TURNS):
                    model.train_on_batch(images, labels)
                seconds[way] += time.perf_counter() - started
        for way in ways:
            result[way][name] = seconds[way] / (count // _TURNS * _TURNS)
    hvd.shutdown()
    return result


def _timed(action: Any) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def folder_of(cluster_folder: Path) -> str:
    """The ranks' runs folder."""
    return str(cluster_folder / "runs")
