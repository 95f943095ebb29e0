"""Averages gradients over ranks in several parts, each as soon as the backward pass has computed it.

The backward pass computes the gradients of the last layer first. Those of one large layer are sent while it goes on with the
layers before; small ones are sent together, because every message costs milliseconds whatever its size. Horovod must not fuse
parts that happen to be ready at the same time (`HOROVOD_DISABLE_GROUP_FUSION`): where a number lies in what ranks send decides in
which order they add, so the same training would end with other bits. (Horovod's own optimizers send each gradient by itself and
have it fused, Sergeev and Del Balso 2018, arXiv:1802.05799; buckets in the order of the backward pass are from PyTorch DDP, Li et
al. 2020, arXiv:2006.15704.)
"""

from collections.abc import Sequence

import horovod.tensorflow as hvd
import tensorflow as tf

from pipelines.config.training import Compression
from pipelines.train.collectives.horovod import COMPRESSION, allreduce_mean


def allreduce_gradients(
    gradients: Sequence[tf.Tensor | tf.IndexedSlices], compression: Compression, bucket_bytes: int
) -> list[tf.Tensor]:
    """The mean over ranks of each gradient, given in the order of the forward pass.

    Args:
        gradients: of one floating-point dtype. With IndexedSlices among them, as of embeddings, which Horovod gathers, all are
            sent after the backward pass.
        compression: the number format in which they are sent.
        bucket_bytes: gradients of at least this size are sent alone, smaller ones together (`buckets`).
    """
    if hvd.size() == 1 or not all(isinstance(gradient, tf.Tensor) for gradient in gradients):
        return allreduce_mean(gradients, compression)
    sizes = [gradient.shape.num_elements() * gradient.dtype.size for gradient in gradients]
    means: list[tf.Tensor] = [None] * len(gradients)
    for number, bucket in enumerate(buckets(sizes, bucket_bytes)):
        part = [gradients[index] for index in bucket]
        # One array without a copy, or the copy that Horovod would make.
        flat = part[0] if len(part) == 1 else tf.concat([tf.reshape(gradient, [-1]) for gradient in part], 0)
        (mean,) = hvd.grouped_allreduce([flat], op=hvd.Average, compression=COMPRESSION[compression], name=f"gradients.{number}")
        parts = [mean] if len(part) == 1 else tf.split(mean, [gradient.shape.num_elements() for gradient in part])
        for index, gradient, values in zip(bucket, part, parts, strict=True):
            means[index] = tf.reshape(values, gradient.shape)
    return means


def buckets(sizes: Sequence[int], bucket_bytes: int) -> list[list[int]]:
    """Which gradients are sent together, from the last to the first.

    Args:
        sizes: bytes of each, in the order of the forward pass.
        bucket_bytes: one of at least this size is sent alone; the smaller ones around it are collected until they have this size.
    """
    found: list[list[int]] = []
    collected: list[int] = []
    for index in reversed(range(len(sizes))):
        if sizes[index] >= bucket_bytes:
            found.append([index])
            continue
        collected.append(index)
        if sum(sizes[each] for each in collected) >= bucket_bytes:
            found.append(collected)
            collected = []
    return [*found, collected] if collected else found
