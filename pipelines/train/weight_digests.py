"""Digests of a rank's weights, every few seconds, by which the driver notices ranks that do not train the same network.

Ranks take one after the same steps without asking each other, since a step takes equally long on all: after steps whose number
passes a multiple of a power of two. A rank that chooses the next larger power takes every second one.
"""

import math
import time
import zlib
from collections.abc import Callable

import keras
import numpy as np

from pipelines import progress

_SECONDS = 5.0
# Of the training's time.
_COST = 0.01


class WeightDigests:
    """Publishes the digests (`pipelines.progress`).

    Args:
        now: monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began: tuple[int, float] | None = None
        self._step = 0
        self._cost_seconds = 0.0

    def after_step(self, model: keras.Model, step: int) -> None:
        """Call after each call into TensorFlow that trains, with the number of steps that the training has made."""
        now = self._now()
        before, self._step = self._step, step
        if self._began is None:
            # The first steps are longer.
            self._began = (step, now)
            return
        seconds_per_step = max((now - self._began[1]) / max(step - self._began[0], 1), 1e-6)
        every = 2 ** max(0, int(math.log2(max(_SECONDS, self._cost_seconds / _COST) / seconds_per_step)))
        if before // every == step // every:
            return
        progress.add_weight_digest(step, _digest(model))
        self._cost_seconds = self._now() - now


def _digest(model: keras.Model) -> int:
    """The CRC-32 of all weights that gradients change; all ranks have the same."""
    digest = 0
    for variable in model.trainable_variables:
        digest = zlib.crc32(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes(), digest)
    return digest
