"""The hashes of the training rows of a table, and whether its test rows are among them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.data.ingest.permutation import Segment
from pipelines.data.ingest.write_pass import WrittenFile
from pipelines.data.table.row_hashes import TrainingRows
from pipelines.data.table.schema import TRAINING_ROWS_NAME
from pipelines.errors import DataError
from pipelines.system.fingerprint import fingerprint


def write(folder: Path, rows: TrainingRows) -> str:
    """Write the file with the hashes to the folder of a table, and return its SHA-256. Raises OSError."""
    path = folder / TRAINING_ROWS_NAME
    path.write_bytes(rows.to_bytes())
    return fingerprint(path).sha256


def collect(segments: Sequence[Segment], files: Sequence[WrittenFile], limit: int) -> TrainingRows:
    """The training and validation rows of the files."""
    return TrainingRows(np.unique(_hashes(segments, files, of_test=False)), limit)


def repeated_test_rows(
    segments: Sequence[Segment], files: Sequence[WrittenFile], rows: TrainingRows, *, test_file_is_named: bool
) -> str:
    """A warning if test rows have the values of a training row; empty otherwise.

    Raises:
        DataError: all rows of the file that data.test_file names have; it is then a copy of a training file.
    """
    hashes = _hashes(segments, files, of_test=True)
    repeated = int(rows.contain(hashes).sum())
    if not repeated:
        return ""
    if repeated == len(hashes) and test_file_is_named:
        raise DataError(
            "every row of the test file is also a row of the training file; name another data.test_file, or leave it empty to "
            "draw test rows (ingest.test_fraction)"
        )
    sampled = "" if rows.is_complete else " that were compared"
    return f"{repeated:,} of {len(hashes):,} test rows{sampled} have the values of a training row; the test figures count them"


def _hashes(segments: Sequence[Segment], files: Sequence[WrittenFile], *, of_test: bool) -> npt.NDArray[np.uint64]:
    selected = [file.image_hashes for file in files if (segments[file.segment].split == "test") == of_test]
    return np.frombuffer(b"".join(selected), "<u8").astype(np.uint64)
