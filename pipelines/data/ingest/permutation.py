"""Assignment of rows to splits and files: a seeded permutation of all rows, divided into segments.

A row's position depends only on its number in the source. Spark's partitioning and the number of cores do not affect the table.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.data.table.schema import SPLITS, Split
from pipelines.errors import DataError

# Enough files for a few workers to get equal shares; all workers together read evaluation splits once per epoch.
_TARGET_FILES: dict[Split, int] = {"train": 32, "validation": 8, "test": 8}
_MIN_ROWS_PER_FILE = 256
_MAX_BYTES_PER_FILE = 32 * 2**20
_ROUNDS = 6


class Permutation:
    """A seeded permutation of 0 .. size - 1 in constant memory: a Feistel network with cycle walking."""

    def __init__(self, size: int, seed: int, name: str) -> None:
        """`name` distinguishes permutations with the same seed."""
        self._size = size
        self._half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        digest = hashlib.sha512(f"{seed}/{name}".encode()).digest()
        self._keys = np.frombuffer(digest, "<u8")[:_ROUNDS].copy()

    def __call__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of `numbers`, which must be in 0 .. size - 1."""
        positions = self._scramble(numbers.astype(np.uint64))
        # The network permutes a range up to the next power of four. Its cycles from inside the range always return to it.
        outside = np.flatnonzero(positions >= self._size)
        while outside.size:
            positions[outside] = self._scramble(positions[outside])
            outside = outside[positions[outside] >= self._size]
        return positions.astype(np.int64)

    def _scramble(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        bits = np.uint64(self._half_bits)
        mask = np.uint64(2**self._half_bits - 1)
        left, right = numbers >> bits, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        return (left << bits) | right


def _mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finalizer of splitmix64 (Steele, Lea, Flood 2014). Overflow is intended."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


@dataclass(frozen=True)
class Segment:
    """A range of positions in the permuted order of one source split. It becomes one split of the table."""

    split: Split
    origin: Split
    """Split of the source from which its rows are."""
    start: int
    rows: int
    rows_per_file: int

    @property
    def num_files(self) -> int:
        return -(-self.rows // self.rows_per_file)

    def rows_of_file(self, number: int) -> int:
        return min(self.rows_per_file, self.rows - number * self.rows_per_file)


def plan_segments(
    *,
    train_rows: int,
    test_rows: int | None,
    validation_fraction: float,
    test_fraction: float,
    rows_per_row_group: int,
    bytes_per_row: int,
    validation_rows: int | None = None,
) -> tuple[Segment, ...]:
    """Divide the rows into splits and choose file sizes.

    Args:
        train_rows: rows of the training files.
        test_rows: rows of the test files; None if there are none and test rows are drawn from the training files.
        validation_fraction: share of the remaining training rows, if `validation_rows` is None.
        test_fraction: share of the training files' rows, if `test_rows` is None.
        rows_per_row_group: rows per file; 0 chooses by size.
        bytes_per_row: size of an image as stored.
        validation_rows: rows that the source sets aside for validation; None if it does not.

    Raises:
        DataError: the train or the test split would be empty.
    """
    drawn = 0 if test_rows is not None else round(train_rows * test_fraction)
    held_back = 0 if validation_rows is not None else round((train_rows - drawn) * validation_fraction)
    rows: dict[Split, int] = {
        "train": train_rows - drawn - held_back,
        "validation": held_back if validation_rows is None else validation_rows,
        "test": drawn if test_rows is None else test_rows,
    }
    for split in ("train", "test"):
        if rows[split] == 0:
            total = train_rows + (validation_rows or 0) + (test_rows or 0)
            raise DataError(f"no rows for the {split} split: the source has {total} rows; give more data")
    origins: dict[Split, Split] = {
        "train": "train",
        "validation": "train" if validation_rows is None else "validation",
        "test": "train" if test_rows is None else "test",
    }
    starts: dict[Split, int] = {"test": 0, "validation": drawn if validation_rows is None else 0, "train": drawn + held_back}
    return tuple(
        Segment(
            split=split,
            origin=origins[split],
            start=starts[split],
            rows=rows[split],
            rows_per_file=rows_per_row_group or _rows_per_file(rows[split], _TARGET_FILES[split], bytes_per_row),
        )
        for split in SPLITS
        if rows[split]
    )


def _rows_per_file(rows: int, files: int, bytes_per_row: int) -> int:
    equal = max(-(-rows // files), _MIN_ROWS_PER_FILE)
    return max(1, min(equal, _MAX_BYTES_PER_FILE // bytes_per_row))
