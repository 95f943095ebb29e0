"""Which rows each worker reads, and the number of steps of all workers. Pure arithmetic.

Shards are ranges of rows, not of row groups: their sizes differ by at most one row, and a table can have fewer row groups than
workers. A row group shared by two shards is read by both workers, each of which keeps its own part. There are as many shards as
workers, or `training.canonical_shards`, of which each worker has several (`pipelines.data.stream.canonical`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.data.table.schema import TableFile
from pipelines.errors import ConfigError, DataError


@dataclass(frozen=True)
class RowRange:
    """Rows `start` to `stop - 1` of a split, in table order."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class FilePart:
    """Rows `start` to `stop - 1` of a file with `rows` rows."""

    path: str
    start: int
    stop: int
    rows: int

    def __len__(self) -> int:
        return self.stop - self.start


def shard(rows: int, rank: int, workers: int) -> RowRange:
    """The rows of one rank. The shards of all ranks are disjoint and cover `range(rows)`."""
    return RowRange(rows * rank // workers, rows * (rank + 1) // workers)


def own_shards(shards: int, rank: int, workers: int) -> range:
    """The shards of one rank.

    Raises:
        ConfigError: the workers cannot divide them equally.
    """
    if shards % workers:
        raise ConfigError(
            f"training.canonical_shards={shards}: must be a multiple of the workers ({workers}), so that all have equally many"
        )
    per_worker = shards // workers
    return range(rank * per_worker, (rank + 1) * per_worker)


def check_rows(rows: int, shards: int, accumulation_steps: int) -> None:
    """Raises ConfigError if there is not a training row for each part of each shard's batch; 0 shards are never too many."""
    most = rows // accumulation_steps
    if shards > most:
        parts = f" in {accumulation_steps} parts (training.accumulation_steps)" if accumulation_steps > 1 else ""
        raise ConfigError(
            f"training.canonical_shards={shards}: must be at most {most}, because the table has {rows} training rows and each "
            f"shard needs one for its batch{parts}; lower it"
        )


def file_parts(files: Sequence[TableFile], rows: RowRange) -> tuple[FilePart, ...]:
    """The parts of files that make up a range of rows, in table order."""
    parts: list[FilePart] = []
    first_row = 0
    for file in files:
        start, stop = max(rows.start - first_row, 0), min(rows.stop - first_row, file.rows)
        if start < stop:
            parts.append(FilePart(file.path, start, stop, file.rows))
        first_row += file.rows
    return tuple(parts)


def fitting_batch(rows: int, workers: int, batch_size_per_worker: int, accumulation_steps: int) -> int:
    """The batch of one worker: `batch_size_per_worker`, or less where the table has fewer rows than one global batch.

    A smaller one is a multiple of `accumulation_steps`, as `batch_size_per_worker` is.

    Raises:
        DataError: there is not a row for each part of each worker's batch.
    """
    fitting = min(batch_size_per_worker, rows // workers)
    fitting -= fitting % accumulation_steps
    if fitting < 1:
        parts = f" in {accumulation_steps} parts" if accumulation_steps > 1 else ""
        lower = "launch.workers or training.accumulation_steps" if parts else "launch.workers"
        raise DataError(
            f"the table has {rows} training rows, too few for a batch{parts} on each of {workers} workers; lower {lower}"
        )
    return fitting


def steps_per_epoch(rows: int, workers: int, batch_size_per_worker: int) -> int:
    """Steps per epoch, the same on every rank.

    floor(floor(rows / workers) / batch) = floor(rows / global_batch), so the smallest shard has enough rows for all steps, and an
    epoch skips fewer rows than one global batch.

    Raises:
        DataError: there are fewer rows than one global batch.
    """
    global_batch_size = workers * batch_size_per_worker
    steps = rows // global_batch_size
    if steps == 0:
        raise DataError(
            f"the table has {rows} training rows, fewer than one global batch of {global_batch_size} "
            f"({workers} workers x {batch_size_per_worker}); lower training.batch_size_per_worker or launch.workers"
        )
    return steps
