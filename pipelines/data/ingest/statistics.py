"""Statistics of the training rows: the range of their values, and the moments by which values and targets are standardized.

Each file of the table has its own, computed where it is written; those of all training files are merged in their order. So they
depend neither on Spark's partitioning nor on the number of cores.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Values converted to float64 at once.
_VALUES_AT_ONCE = 2**20
# A smaller deviation has no reciprocal in float32.
_MIN_DEVIATION = 1e-30


@dataclass(frozen=True)
class Moments:
    """Count, means and sums of squared deviations of the columns of a matrix. Their merge is stable (Chan, Golub and LeVeque
    1983, "Algorithms for computing the sample variance", doi:10.1080/00031305.1983.10483115)."""

    rows: int
    means: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    """Sum of squared differences from the mean."""

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> "Moments":
        """Moments of the columns of [rows, columns], at least one row."""
        step = max(1, _VALUES_AT_ONCE // values.shape[1])
        return merged(cls._of_slice(values[start : start + step]) for start in range(0, len(values), step))

    @classmethod
    def _of_slice(cls, values: npt.NDArray[Any]) -> "Moments":
        # Differences from a row are exactly 0 in a constant column.
        first = values[0].astype(np.float64)
        differences = values - first
        means = differences.mean(axis=0)
        differences -= means
        return cls(len(values), first + means, np.square(differences, out=differences).sum(axis=0))

    @property
    def deviations(self) -> npt.NDArray[np.float64]:
        """Standard deviation of each column; 1 for a constant one, so that dividing by it changes nothing."""
        deviations = np.sqrt(self.squares / self.rows)
        return np.where(deviations >= _MIN_DEVIATION, deviations, 1.0)

    def to_bytes(self) -> bytes:
        return np.concatenate([[self.rows], self.means, self.squares]).tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Moments":
        values = np.frombuffer(content, np.float64)
        means, squares = values[1:].reshape(2, -1)
        return cls(int(values[0]), means, squares)


def merged(parts: Iterable[Moments]) -> Moments:
    """The moments of all rows. The order of the parts affects the last digits."""
    return functools.reduce(_merge, parts)


def _merge(one: Moments, other: Moments) -> Moments:
    rows = one.rows + other.rows
    difference = other.means - one.means
    means = one.means + difference * (other.rows / rows)
    squares = one.squares + other.squares + np.square(difference) * (one.rows * other.rows / rows)
    return Moments(rows, means, squares)
