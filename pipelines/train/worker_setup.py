"""The set-up of one worker: its devices, and what it must agree on with all other ranks."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import horovod.tensorflow as hvd

from pipelines.config import Config
from pipelines.config.training import TrainingConfig
from pipelines.data.stream.sharding import check_rows, fitting_batch, own_shards, steps_per_epoch
from pipelines.data.table.schema import Table
from pipelines.errors import LaunchError
from pipelines.train import precision
from pipelines.train.collectives import reducers
from pipelines.train.collectives.horovod import allgather
from pipelines.train.collectives.reducers import Reduction
from pipelines.train.devices import use_own_gpu, use_threads
from pipelines.train.optim.schedule import LearningRate, plan_learning_rate
from pipelines.train.precision import ResolvedPrecision


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """The parameters of a worker's training, equal on all ranks except for `rank`, `own_shards` and `threads`."""

    rank: int
    workers: int
    own_shards: range
    """Numbers of the shards of training rows that this rank trains on."""
    shards: int
    """Shards of all ranks: as many as workers, or `training.canonical_shards`."""
    batch_size_per_worker: int
    """Examples of a shard in a step: those of a worker if there are as many shards as workers."""
    steps_per_epoch: int
    learning_rate: LearningRate
    precision: ResolvedPrecision
    """The number format that the layers compute in."""
    reduction: Reduction
    """Which way gradients take between ranks."""
    threads: int
    """TensorFlow threads per operation."""

    @property
    def global_batch_size(self) -> int:
        """Examples that all ranks together see in a step."""
        return self.shards * self.batch_size_per_worker


def set_up(config: Config, table: Table, checkpoint: Path | None) -> WorkerSetup:
    """Configure this rank's devices and agree with all other ranks on the work. Call before TensorFlow's first operation.

    Raises:
        DataError: the table has too few training rows for so many workers.
        ConfigError: it has too few for so many canonical shards, or the workers cannot divide those equally.
        LaunchError: the ranks were given different work; raised on all ranks.
    """
    workers, rows = hvd.size(), table.manifest.rows("train")
    training = config.training
    shards = training.canonical_shards or workers
    check_rows(rows, training.canonical_shards, training.accumulation_steps)
    batch_size = fitting_batch(rows, shards, training.batch_size_per_worker, training.accumulation_steps)
    # The learning rate may depend on the batch.
    training = dataclasses.replace(training, batch_size_per_worker=batch_size)
    gpu = use_own_gpu()
    threads = use_threads(int(os.environ.get("OMP_NUM_THREADS", "0")))
    steps = steps_per_epoch(rows, shards, batch_size)
    setup = WorkerSetup(
        rank=hvd.rank(),
        workers=workers,
        own_shards=own_shards(shards, hvd.rank(), workers),
        shards=shards,
        batch_size_per_worker=batch_size,
        steps_per_epoch=steps,
        learning_rate=plan_learning_rate(training, shards, steps),
        precision=agreed_precision(training, gpu),
        reduction=reducers.choose(config, gpu is not None),
        threads=threads,
    )
    check_agreement(
        steps=steps,
        table=table.manifest.key,
        precision=setup.precision,
        checkpoint=str(checkpoint),
        reduction=setup.reduction,
    )
    return setup


def agreed_precision(training: TrainingConfig, gpu: tuple[int, int] | None) -> ResolvedPrecision:
    """The precision that all ranks resolve the setting to; float32 if they differ, because all must compute alike."""
    resolved: set[ResolvedPrecision] = set(allgather(precision.resolve(training.precision, gpu)))
    return resolved.pop() if len(resolved) == 1 else "float32"


def check_agreement(**values: object) -> None:
    """Raise LaunchError on all ranks if their values differ: with different numbers of steps, ranks would wait forever."""
    of_ranks = allgather(values)
    for rank, others in enumerate(of_ranks):
        if others != of_ranks[0]:
            raise LaunchError(f"rank {rank} was given {others}, rank 0 {of_ranks[0]}; all nodes must see the same table")
