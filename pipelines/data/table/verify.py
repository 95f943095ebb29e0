"""Integrity check of a table on disk, on the driver and without Spark, before anything starts.

The driver verifies the hashes of small tables. For large tables it checks all sizes and a bounded number of footers. Workers
verify the hash of each file they open (`pipelines.data.stream.reader`), so no corrupt data is used for training.
"""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.table import row_parts
from pipelines.data.table.schema import TRAINING_ROWS_NAME, TableFile, TableManifest
from pipelines.system.fingerprint import fingerprint
from pipelines.system.secrets import first_line

# Hashing takes about one second per gigabyte and thread.
_MAX_BYTES_HASHED = 256 * 2**20
# On a mounted store reading a footer can take 50 ms.
_MAX_FOOTERS = 400
_THREADS = 8


def find_damage(folder: Path, manifest: TableManifest) -> str | None:
    """Description of the first damaged file of the table in `folder`; None if there is none.

    Detects files that are missing, replaced by links or folders, truncated, changed, or of another schema.
    """
    files = [file for split in manifest.splits.values() for file in split.files]
    hash_all = sum(file.num_bytes for file in files) <= _MAX_BYTES_HASHED
    read_footer = set(range(0, len(files), max(1, -(-len(files) // _MAX_FOOTERS))))
    resolved = folder.resolve()

    def check(number: int) -> str | None:
        file = files[number]
        try:
            defect = _check_file(resolved, file, manifest, hash_all, number in read_footer)
        except FileNotFoundError:
            defect = "is missing"
        except OSError as error:
            defect = f"cannot be read ({error.strerror or error})"
        return f"{file.path} {defect}" if defect else None

    if manifest.training_rows_sha256 and not _is_intact(resolved / TRAINING_ROWS_NAME, manifest.training_rows_sha256):
        return f"{TRAINING_ROWS_NAME} is missing or changed"
    with ThreadPoolExecutor(_THREADS) as pool:
        return next((text for text in pool.map(check, range(len(files))) if text), None)


def _is_intact(path: Path, sha256: str) -> bool:
    try:
        return not path.is_symlink() and fingerprint(path).sha256 == sha256
    except OSError:
        return False


def _check_file(folder: Path, file: TableFile, manifest: TableManifest, hash_it: bool, read_footer: bool) -> str | None:
    path = folder / file.path
    status = path.lstat()
    # Also catches a split folder that is a link.
    if path.resolve() != path:
        return "is a symbolic link; a table must contain its own files"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_size != file.num_bytes:
        return _footer_defect(path, file, manifest) or f"has {status.st_size} bytes where the manifest says {file.num_bytes}"
    if hash_it:
        if fingerprint(path).sha256 != file.sha256:
            return _footer_defect(path, file, manifest) or "is not as it was written: some of its bytes have changed"
        return None
    return _footer_defect(path, file, manifest) if read_footer else None


def _footer_defect(path: Path, file: TableFile, manifest: TableManifest) -> str | None:
    """What is wrong with a file according to its footer and first row; None if these are as expected."""
    parts = row_parts.of_table(manifest)
    try:
        with pq.ParquetFile(path) as parquet:
            metadata, columns = parquet.metadata, parquet.schema_arrow
            for part in parts:
                if part.column not in columns.names:
                    return f"has no column '{part.column}'; its columns are {', '.join(columns.names)}"
                dtype = pa.binary() if part.is_binary else pa.type_for_alias(part.dtype)
                if columns.field(part.column).type != dtype:
                    return f"has {columns.field(part.column).type} in column '{part.column}' instead of {dtype}"
            if (metadata.num_row_groups, metadata.num_rows) != (1, file.rows):
                groups = f"{metadata.num_row_groups} row group{'s' if metadata.num_row_groups > 1 else ''}"
                return f"has {metadata.num_rows} rows in {groups} where the manifest says {file.rows} in one"
            first = next(parquet.iter_batches(batch_size=1, columns=[parts[0].column])).column(0)[0].as_py()
    except (pa.ArrowException, OSError, StopIteration) as error:
        return f"is truncated or damaged ({first_line(error, 100)})"
    if first is None or len(first) != manifest.spec.num_bytes:
        num_bytes, spec = 0 if first is None else len(first), manifest.spec
        return f"has {num_bytes} bytes in column '{parts[0].column}' instead of {spec.num_bytes} ({spec.shape}, {spec.dtype})"
    return None
