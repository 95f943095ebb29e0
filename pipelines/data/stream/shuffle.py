"""The shuffle buffer of a streamed shard, and the memory for rows."""

import os

import numpy as np

from pipelines.config import StreamConfig
from pipelines.data.stream.reader import Block
from pipelines.data.table.row_parts import Part
from pipelines.data.table.schema import FEATURES_COLUMN
from pipelines.errors import DataError


class ShuffleBuffer:
    """Shuffle buffer of preallocated memory."""

    def __init__(self, stream: StreamConfig, batch_size: int, parts: tuple[Part, ...], rng: np.random.Generator) -> None:
        self.capacity = buffer_rows(stream, batch_size, parts[0])
        self._parts = reserve(self.capacity, parts, "stream.shufflebuffer_rows", stream.shufflebuffer_rows)
        self._held = 0
        self._rng = rng

    @property
    def is_full(self) -> bool:
        return self._held == self.capacity

    def add(self, block: Block) -> Block | None:
        """Add rows until the buffer is full. Returns the rest, or None."""
        rows = len(block[0])
        added = min(rows, self.capacity - self._held)
        for buffered, values in zip(self._parts, block, strict=True):
            buffered[self._held : self._held + added] = values[:added]
        self._held += added
        return tuple(values[added:] for values in block) if added < rows else None

    def pop(self, rows: int) -> Block:
        """Remove and return random rows in random order."""
        leaving = self._rng.permutation(self._held)[:rows]
        block = tuple(buffered[leaving] for buffered in self._parts)
        stays = np.ones(self._held, bool)
        stays[leaving] = False
        self._held -= rows
        # Fill the gaps with the last rows.
        free, last = np.flatnonzero(~stays[: self._held]), self._held + np.flatnonzero(stays[self._held :])
        for buffered in self._parts:
            buffered[free] = buffered[last]
        return block


def buffer_rows(stream: StreamConfig, batch_size: int, inputs: Part) -> int:
    rows = stream.shufflebuffer_rows
    if inputs.column == FEATURES_COLUMN and stream.memory_limit_mb:
        rows = min(rows, stream.memory_limit_mb * 1_000_000 // inputs.num_bytes)
    return max(rows, 2 * batch_size)


def reserve(rows: int, parts: tuple[Part, ...], setting: str, value: int) -> Block:
    """Memory for rows; a DataError that names the setting if there is not enough."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    num_bytes = parts[0].num_bytes
    if rows * num_bytes > total:
        size = f"{rows:,} rows of {num_bytes:,} bytes are {rows * num_bytes / 1e9:,.1f} GB"
        raise DataError(f"{setting}={value}: {size}, more than this machine has ({total / 1e9:,.1f} GB); lower it")
    return tuple(np.empty((rows, *part.shape), part.dtype) for part in parts)
