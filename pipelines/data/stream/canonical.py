"""The canonical shards of a worker (`training.canonical_shards`).

The training rows are cut into as many shards whatever the number of workers. Each shard has its own order, shuffle buffer and
augmentation, as if a worker read nothing else; a batch has the rows of the worker's shards one after another. So the batches of
all workers together, in the order of their ranks, are the same with any number of workers.
"""

from collections.abc import Sequence

import tensorflow as tf

from pipelines.data.stream.batches import TrainingData


class WorkerData:
    """The training data of one rank: those of its shards, side by side.

    Args:
        shards: the data of each shard, all with the same steps.
    """

    def __init__(self, shards: Sequence[TrainingData]) -> None:
        self._shards = shards

    def begin(self, epoch: int) -> None:
        """Select the epoch, counted from 0, for iterators started from now on."""
        for shard in self._shards:
            shard.begin(epoch)

    def dataset(self, skip_steps: int = 0) -> tf.data.Dataset:
        """The batches of one epoch except the first `skip_steps`; iterate it once per epoch.

        Returns:
            A dataset of known length. Each part of a batch is [shards x batch, ...], shard after shard.
        """
        datasets = [shard.dataset(skip_steps) for shard in self._shards]
        if len(datasets) == 1:
            return datasets[0]
        return tf.data.Dataset.zip(tuple(datasets)).map(_joined)


def _joined(*batches: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
    return tuple(tf.concat(parts, axis=0) for parts in zip(*batches, strict=True))
