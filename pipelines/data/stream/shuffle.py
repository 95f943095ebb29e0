"""The shuffle buffer of a streamed shard, and the memory for rows.

Every row is copied twice: into a slot that a row before it has left, and from there into an array of rows that leave.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.config import StreamConfig
from pipelines.data.stream.reader import Block
from pipelines.data.table.row_parts import Part
from pipelines.data.table.schema import FEATURES_COLUMN
from pipelines.errors import DataError

# Rows that leave at a time, at most. Fewer would cost TensorFlow's way into Python, about a millisecond, more often.
_LEAVING_BYTES = 8_000_000
# TensorFlow uses the memory of arrays at such addresses, and copies others.
_ALIGNMENT = 64


class ShuffleBuffer:
    """A buffer that rows leave in random order; other rows take their slots.

    `capacity` is its rows, `leaving` those that leave it at a time.

    Args:
        stream: settings for its size.
        batch_size: rows leave as whole batches.
        parts: of each row.
        rng: decides which rows leave.

    Raises:
        DataError: the machine does not have the memory.
    """

    def __init__(self, stream: StreamConfig, batch_size: int, parts: tuple[Part, ...], rng: np.random.Generator) -> None:
        self.capacity = buffer_rows(stream, batch_size, parts[0])
        self.leaving = leaving_rows(self.capacity, batch_size, parts[0])
        reserved = reserve(self.capacity, parts, "stream.shuffle_buffer_rows", stream.shuffle_buffer_rows)
        # NumPy places rows faster if they have one dimension.
        self._rows = tuple(rows.reshape(self.capacity, -1) for rows in reserved)
        self._parts = parts
        # Slots with rows, then free ones.
        self._slots = np.arange(self.capacity)
        self._held = 0
        self._rng = rng

    @property
    def is_full(self) -> bool:
        return self._held == self.capacity

    def add(self, block: Block) -> Block | None:
        """Add rows until the buffer is full. Returns the rest, or None."""
        added = min(len(block[0]), self.capacity - self._held)
        slots = self._slots[self._held : self._held + added]
        for rows, values in zip(self._rows, block, strict=True):
            rows[slots] = values[:added].reshape(added, -1)
        self._held += added
        return tuple(values[added:] for values in block) if added < len(block[0]) else None

    def pop(self, count: int) -> Block:
        """Remove random rows, and return them in random order, in new memory that TensorFlow may keep."""
        chosen = self._rng.choice(self._held, count, replace=False)
        leaving, staying = self._slots[chosen], np.delete(self._slots[: self._held], chosen)
        # Slots in the order of their addresses are refilled faster.
        self._slots[: self._held] = np.concatenate([staying, np.sort(leaving)])
        self._held -= count
        block = tuple(_aligned(count, part) for part in self._parts)
        for rows, values in zip(self._rows, block, strict=True):
            # A mode that cannot fail writes straight into the result, without the GIL.
            np.take(rows, leaving, axis=0, out=values.reshape(count, -1), mode="clip")
        return block


def shuffled(blocks: Iterable[Block], buffer: ShuffleBuffer, *, steps: int, batch_size: int) -> Iterator[Block]:
    """Mix rows in a buffer.

    Args:
        blocks: at least `steps * batch_size` rows; those beyond that are skipped.
        buffer: an empty one for this batch size.
        steps: batches in total.
        batch_size: rows of a batch.

    Yields:
        Blocks of whole batches, [n, batch, ...] instead of [n, ...].
    """
    left = steps * batch_size
    for block in blocks:
        waiting: Block | None = block
        while waiting is not None and left:
            waiting = buffer.add(waiting)
            if buffer.is_full:
                count = min(buffer.leaving, left)
                left -= count
                yield _to_batches(buffer.pop(count), batch_size)
    while left:
        count = min(buffer.leaving, left)
        left -= count
        yield _to_batches(buffer.pop(count), batch_size)


def buffer_rows(stream: StreamConfig, batch_size: int, inputs: Part) -> int:
    """Rows of the shuffle buffer."""
    rows = stream.shuffle_buffer_rows
    if inputs.column == FEATURES_COLUMN and stream.memory_limit_mb:
        rows = min(rows, stream.memory_limit_mb * 1_000_000 // inputs.num_bytes)
    return max(rows, 2 * batch_size)


def leaving_rows(capacity: int, batch_size: int, inputs: Part) -> int:
    """Rows that leave a full buffer at a time: whole batches, at most half of the buffer."""
    batches = min(_LEAVING_BYTES // (batch_size * inputs.num_bytes), capacity // 2 // batch_size)
    return max(batches, 1) * batch_size


def reserve(rows: int, parts: tuple[Part, ...], setting: str, value: int) -> Block:
    """Memory for rows; a DataError that names the setting if there is not enough."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    num_bytes = parts[0].num_bytes
    if rows * num_bytes > total:
        size = f"{rows:,} rows of {num_bytes:,} bytes are {rows * num_bytes / 1e9:,.1f} GB"
        raise DataError(f"{setting}={value}: {size}, more than this machine has ({total / 1e9:,.1f} GB); lower it")
    return tuple(np.empty((rows, *part.shape), part.dtype) for part in parts)


def _aligned(rows: int, part: Part) -> npt.NDArray[Any]:
    """An array [rows, *part.shape] that TensorFlow takes without a copy."""
    num_bytes = rows * part.num_bytes
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(part.dtype).reshape(rows, *part.shape)


def _to_batches(block: Block, batch_size: int) -> Block:
    return tuple(values.reshape(-1, batch_size, *values.shape[1:]) for values in block)
