"""From a shard to the batches of one worker.

A shard within the memory limit is decoded once, and batches are gathered from it; a larger one is read again in every epoch
through a shuffle buffer. Either way every epoch has the same number of batches on every rank, in a different order each time.
Batches contain source values (uint8 or float32); the network's first layer scales them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines import progress
from pipelines.config import StreamConfig
from pipelines.data.stream.augment import Augmentation, augmented, epoch_keys
from pipelines.data.stream.reader import FILES_AT_ONCE, Block, read_blocks
from pipelines.data.stream.sharding import RowRange, file_parts
from pipelines.data.stream.shuffle import ShuffleBuffer, buffer_rows, leaving_rows, reserve, shuffled
from pipelines.data.table import row_parts
from pipelines.data.table.schema import Split, Table


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The rows of a split that one worker reads."""

    table: Table
    split: Split
    rows: RowRange
    stream: StreamConfig

    @property
    def num_bytes(self) -> int:
        return len(self.rows) * self.table.manifest.spec.num_bytes

    @property
    def fits_memory(self) -> bool:
        return self.num_bytes <= self.stream.memory_limit_mb * 1_000_000

    def held_bytes(self, batch_size: int) -> int:
        """Upper bound of the bytes of inputs held in memory while training on the shard."""
        if self.fits_memory:
            return self.num_bytes
        files = list(file_parts(self.table.manifest.splits[self.split].files, self.rows))
        largest = max(file.rows for file in files)
        inputs, *_ = row_parts.of_table(self.table.manifest)
        capacity = buffer_rows(self.stream, batch_size, inputs)
        # Batches that wait for the network or are with it, from four arrays at most, and the array that is being filled.
        leaving = 5 * leaving_rows(capacity, batch_size, inputs)
        rows = capacity + leaving + largest + 2 * min(len(files), FILES_AT_ONCE) * largest
        return rows * inputs.num_bytes


def load(shard: Shard) -> Block:
    """Decode a whole shard, in table order."""
    parts = row_parts.of_table(shard.table.manifest)
    loaded = reserve(len(shard.rows), parts, "stream.memory_limit_mb", shard.stream.memory_limit_mb)
    filled = 0
    for block in _read(shard):
        stop = filled + len(block[0])
        for whole, values in zip(loaded, block, strict=True):
            whole[filled:stop] = values
        filled = stop
    return loaded


class TrainingData:
    """The training data of one rank, one epoch at a time. Kept decoded if it fits the memory limit.

    Args:
        shard: at least `steps * batch_size` rows. Each epoch skips the rows beyond that, different ones each time.
        steps: batches per epoch, the same on every rank.
        batch_size: examples per batch.
        seed: determines, with the epoch, order and augmentation; must differ between ranks.
        augmentation: random transformations of the images; None for none.
    """

    def __init__(self, shard: Shard, *, steps: int, batch_size: int, seed: int, augmentation: Augmentation | None = None) -> None:
        self._shard = shard
        self._steps = steps
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation = augmentation
        self._epoch = 0
        self._cached = tuple(tf.constant(part) for part in load(shard)) if shard.fits_memory else None
        if self._cached is None:
            # What a generator of TensorFlow's raises is not shown as one line.
            ShuffleBuffer(shard.stream, batch_size, row_parts.of_table(shard.table.manifest), np.random.default_rng())

    def begin(self, epoch: int) -> None:
        """Select the epoch, counted from 0, for iterators started from now on."""
        self._epoch = epoch

    def dataset(self, skip_steps: int = 0) -> tf.data.Dataset:
        """The batches of one epoch except the first `skip_steps`; iterate it once per epoch.

        Returns:
            A dataset of batches, each with the parts of a `Block`, of known length.
        """
        dataset = self._from_stream() if self._cached is None else self._from_memory(self._cached)
        options = tf.data.Options()
        # There is nothing to tune, and the autotune thread takes up to a minute to exit after the last batch.
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1
        if self._augmentation is None:
            dataset = dataset.skip(skip_steps)
        else:
            dataset = self._augmented(dataset, skip_steps, self._augmentation)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(self._steps - skip_steps)).with_options(options)
        # Streamed batches are slices of what was prefetched; another thread for them would cost more than cutting them.
        return dataset if self._cached is None and self._augmentation is None else dataset.prefetch(2)

    def _augmented(self, dataset: tf.data.Dataset, skip_steps: int, augmentation: Augmentation) -> tf.data.Dataset:
        def keys(_: tf.Tensor) -> tf.data.Dataset:
            epoch = tf.numpy_function(lambda: epoch_keys(self._seed, self._epoch, self._steps), [], tf.int64)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(epoch, (self._steps, 2)))

        # There is a key for each step of the epoch, so keys are skipped together with batches.
        both = tf.data.Dataset.zip((dataset, tf.data.Dataset.range(1).flat_map(keys))).skip(skip_steps)
        return both.map(lambda batch, key: (augmented(batch[0], key, augmentation), *batch[1:]))

    def _from_memory(self, parts: tuple[tf.Tensor, ...]) -> tf.data.Dataset:
        steps, batch_size = self._steps, self._batch_size

        def order() -> npt.NDArray[np.int64]:
            chosen = epoch_order(len(self._shard.rows), self._seed, self._epoch)[: steps * batch_size]
            return chosen.reshape(steps, batch_size)

        def rows_of_batches(_: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices(
                tf.ensure_shape(tf.numpy_function(order, [], tf.int64), (steps, batch_size))
            )

        return tf.data.Dataset.range(1).flat_map(rows_of_batches).map(lambda rows: tuple(tf.gather(part, rows) for part in parts))

    def _from_stream(self) -> tf.data.Dataset:
        parts = row_parts.of_table(self._shard.table.manifest)
        blocks = tf.data.Dataset.from_generator(
            lambda: _shuffled_epoch(self._shard, self._steps, self._batch_size, self._seed, self._epoch),
            output_signature=tuple(tf.TensorSpec((None, self._batch_size, *part.shape), part.dtype) for part in parts),
        )
        return blocks.prefetch(1).flat_map(lambda *batches: tf.data.Dataset.from_tensor_slices(batches))


class EvaluationData:
    """The rows of a shard, each exactly once per pass, in table order. Kept in memory if they fit the limit."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._cached = load(shard) if shard.fits_memory else None

    def batches(self, batch_size: int) -> Iterator[Block]:
        """Blocks of at most `batch_size` rows."""
        shard = self._shard
        blocks = [self._cached] if self._cached is not None else _read(shard)
        for block in blocks:
            for start in range(0, len(block[0]), batch_size):
                yield tuple(values[start : start + batch_size] for values in block)


def epoch_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Order of a shard's rows in one epoch. Any seed is valid, including 0."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def _shuffled_epoch(shard: Shard, steps: int, batch_size: int, seed: int, epoch: int) -> Iterator[Block]:
    """Blocks of whole batches, [n, batch, ...] instead of [n, ...]; `steps` batches in total.

    Row groups are read in a seeded order, and their rows are mixed in a shuffle buffer. The table itself was shuffled when it was
    written.
    """
    rng = np.random.default_rng((seed, epoch))
    blocks = _read(shard, order_seed=int(rng.integers(2**31)))
    buffer = ShuffleBuffer(shard.stream, batch_size, row_parts.of_table(shard.table.manifest), rng)
    return shuffled(blocks, buffer, steps=steps, batch_size=batch_size)


def _read(shard: Shard, order_seed: int | None = None) -> Iterator[Block]:
    blocks = read_blocks(shard.table, shard.split, shard.rows, order_seed=order_seed)
    return progress.reading(blocks, f"{shard.split} rows of {shard.table.uri}")
