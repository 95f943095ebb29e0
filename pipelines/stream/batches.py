"""From a shard to the batches of one worker.

A shard that fits the memory limit is decoded once and batches are gathered from it; a larger one is read anew each epoch through
a shuffle buffer. Either way every epoch has the same number of batches on every rank, in another order each time, and batches
hold source values (uint8 or float32): scaling them is the network's first layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines.config import StreamConfig
from pipelines.schema import Split, Table
from pipelines.stream.reader import Block, Images, Labels, read_blocks
from pipelines.stream.sharding import RowRange


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The rows of one split that one worker reads."""

    table: Table
    split: Split
    rows: RowRange
    stream: StreamConfig

    @property
    def num_bytes(self) -> int:
        return len(self.rows) * self.table.manifest.image.num_bytes

    @property
    def fits_memory(self) -> bool:
        return self.num_bytes <= self.stream.memory_limit_mb * 1_000_000


def load(shard: Shard) -> Block:
    """Decode a whole shard: images [rows, height, width, channels] and labels [rows] int32, in table order."""
    image = shard.table.manifest.image
    images = np.empty((len(shard.rows), *image.shape), dtype=image.dtype)
    labels = np.empty(len(shard.rows), dtype=np.int32)
    filled = 0
    for block_images, block_labels in read_blocks(shard.table, shard.split, shard.rows):
        images[filled : filled + len(block_labels)] = block_images
        labels[filled : filled + len(block_labels)] = block_labels
        filled += len(block_labels)
    return images, labels


def training_dataset(shard: Shard, *, steps: int, batch_size: int, seed: int, first_epoch: int = 0) -> tf.data.Dataset:
    """Endless epochs of `steps` batches each.

    Args:
        shard: at least `steps * batch_size` rows. Rows beyond that are left out of an epoch, other ones each time.
        steps: batches in an epoch, the same on every rank.
        batch_size: examples in a batch.
        seed: with the epoch's number it decides the order; use another one on each rank.
        first_epoch: number of the first epoch delivered, so that a resumed run goes on with the order it would have had.

    Returns:
        a dataset of (images [batch, height, width, channels], labels [batch] int32).
    """
    if shard.fits_memory:
        dataset = _from_memory(load(shard), steps, batch_size, seed, first_epoch)
    else:
        dataset = _from_stream(shard, steps, batch_size, seed, first_epoch)
    options = tf.data.Options()
    # The pipeline has nothing to tune, and the tuning thread sleeps up to a minute after the last batch before it ends.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return dataset.with_options(options).prefetch(2)


class EvaluationData:
    """The rows of a shard, each exactly once, in table order, as often as asked. Kept in memory where they fit the limit."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._kept = load(shard) if shard.fits_memory else None

    def batches(self, batch_size: int) -> Iterator[Block]:
        """Images [n, height, width, channels] and labels [n] int32 with n <= `batch_size`."""
        shard = self._shard
        blocks = [self._kept] if self._kept is not None else read_blocks(shard.table, shard.split, shard.rows)
        for images, labels in blocks:
            for start in range(0, len(labels), batch_size):
                yield images[start : start + batch_size], labels[start : start + batch_size]


def epoch_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of a shard's rows in one epoch. Any seed is a seed, 0 included."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def _from_memory(block: Block, steps: int, batch_size: int, seed: int, first_epoch: int) -> tf.data.Dataset:
    rows = len(block[1])
    images, labels = tf.constant(block[0]), tf.constant(block[1])

    def order(epoch: np.int64) -> npt.NDArray[np.int64]:
        return epoch_order(rows, seed, int(epoch))[: steps * batch_size].reshape(steps, batch_size)

    def batches_of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(
            tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), (steps, batch_size))
        )

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return epochs.flat_map(batches_of_epoch).map(
        lambda rows_of_batch: (tf.gather(images, rows_of_batch), tf.gather(labels, rows_of_batch))
    )


def _from_stream(shard: Shard, steps: int, batch_size: int, seed: int, first_epoch: int) -> tf.data.Dataset:
    def blocks_of_batches() -> Iterator[Block]:
        epoch = first_epoch
        while True:
            yield from _shuffled_epoch(shard, steps, batch_size, seed, epoch)
            epoch += 1

    image = shard.table.manifest.image
    blocks = tf.data.Dataset.from_generator(
        blocks_of_batches,
        output_signature=(
            tf.TensorSpec((None, batch_size, *image.shape), image.dtype),
            tf.TensorSpec((None, batch_size), tf.int32),
        ),
    )
    return blocks.flat_map(lambda images, labels: tf.data.Dataset.from_tensor_slices((images, labels)))


def _shuffled_epoch(shard: Shard, steps: int, batch_size: int, seed: int, epoch: int) -> Iterator[Block]:
    """Blocks of whole batches: images [n, batch, height, width, channels], labels [n, batch]; `steps` batches in total.

    Row groups come in a seeded order. Rows wait in a buffer; each time it is full, it is shuffled and half of it leaves, so rows
    of distant row groups meet. The table itself was shuffled when it was written.
    """
    rng = np.random.default_rng((seed, epoch))
    order_seed = int(rng.integers(2**31))
    left = steps * batch_size
    waiting: list[Block] = []
    num_waiting = 0
    capacity = max(shard.stream.shuffle_buffer_rows, 2 * batch_size)
    for block in read_blocks(shard.table, shard.split, shard.rows, order_seed=order_seed):
        waiting.append(block)
        num_waiting += len(block[1])
        if num_waiting < capacity:
            continue
        images, labels = _shuffled(waiting, rng)
        leaving = min(num_waiting // 2 // batch_size * batch_size, left)
        if leaving:
            yield _cut(images[:leaving], labels[:leaving], batch_size)
        left -= leaving
        waiting = [(images[leaving:], labels[leaving:])]
        num_waiting -= leaving
    if left:
        images, labels = _shuffled(waiting, rng)
        yield _cut(images[:left], labels[:left], batch_size)


def _shuffled(blocks: list[Block], rng: np.random.Generator) -> Block:
    images = np.concatenate([block[0] for block in blocks])
    labels = np.concatenate([block[1] for block in blocks])
    order = rng.permutation(len(labels))
    return images[order], labels[order]


def _cut(images: Images, labels: Labels, batch_size: int) -> Block:
    num_batches = len(labels) // batch_size
    return images.reshape(num_batches, batch_size, *images.shape[1:]), labels.reshape(num_batches, batch_size)
