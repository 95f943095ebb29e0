"""Hashes of the images that a model was trained on, to recognize them in other data.

A hash has 64 bits: among a million rows and a million training rows, one in 20 million comparisons finds a false match.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError

FILE_NAME = "training_rows.npy"
MAX_LIMIT = 2**64 - 1
# 16 MB. Of a larger table only the smallest hashes are kept.
_MAX_HASHES = 2**21
_DIGEST_BYTES = 8


def hash_images(images: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """A hash of each image [n, ...], whatever its dtype; the label does not matter. [n] uint64."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    if rows.dtype == np.uint8:
        return _digests(rows)
    values = rows.astype("<f4") + np.float32(0)  # -0 becomes 0
    hashes = np.empty(len(values), np.uint64)
    # The same image is stored as uint8 in one table, and in another, with a fraction somewhere, as float32.
    are_bytes = ((values >= 0) & (values <= 255) & (values == np.floor(values))).all(axis=1)
    hashes[are_bytes] = _digests(values[are_bytes].astype(np.uint8))
    hashes[~are_bytes] = _digests(values[~are_bytes])
    return hashes


def _digests(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    content, size = rows.tobytes(), rows.shape[1] * rows.itemsize
    starts = range(0, len(content), size)
    digests = [hashlib.blake2b(content[start : start + size], digest_size=_DIGEST_BYTES).digest() for start in starts]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def limit_for(rows: int) -> int:
    """The largest hash to keep of a table with this many rows, so that about `_MAX_HASHES` are kept at most."""
    return MAX_LIMIT if rows <= _MAX_HASHES else MAX_LIMIT * _MAX_HASHES // rows


@dataclass(frozen=True)
class TrainingRows:
    """The training and validation rows of a table."""

    hashes: npt.NDArray[np.uint64]
    """Hashes of the images, ascending and unique."""
    limit: int = MAX_LIMIT
    """Larger hashes were not kept."""

    @property
    def is_complete(self) -> bool:
        """False if only a sample of the rows can be recognized."""
        return self.limit == MAX_LIMIT

    def contain(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each hash is that of a training row [n]."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.bool_)
        nearest = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        known: npt.NDArray[np.bool_] = self.hashes[nearest] == hashes
        return known

    def to_bytes(self) -> bytes:
        """As a file in numpy's format: the limit, then the hashes."""
        content = io.BytesIO()
        np.save(content, np.concatenate([np.asarray([self.limit], np.uint64), self.hashes]), allow_pickle=False)
        return content.getvalue()

    @classmethod
    def read(cls, path: Path) -> "TrainingRows | None":
        """The rows in a file; None if there is no such file.

        Raises:
            DataError: it is damaged.
        """
        try:
            values = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: the hashes of the training rows cannot be read ({error}); copy the folder again") from error
        if values.dtype != np.uint64 or values.ndim != 1 or not len(values):
            raise DataError(f"{path}: must hold hashes of training rows; copy the folder again")
        return cls(values[1:], int(values[0]))
