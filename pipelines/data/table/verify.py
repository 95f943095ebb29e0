"""Whether a table on disk is still the one that was written: looked at on the driver, without Spark, before anything starts.

Small tables are compared through their hashes. Of a large one the driver reads sizes and a bounded number of footers. Every
worker compares the hash of each file it opens (`pipelines.data.stream.reader`), so that no changed bit is trained on.
"""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.table.schema import IMAGE_COLUMN, LABEL_COLUMN, TableFile, TableManifest
from pipelines.system.fingerprint import fingerprint
from pipelines.system.secrets import first_line

# Hashing costs about a second a gigabyte and thread.
_MOST_BYTES_HASHED = 256 * 2**20
# On a mounted store a footer can take 50 ms.
_MOST_FOOTERS = 400
_THREADS = 8
_COLUMNS = {IMAGE_COLUMN: pa.binary(), LABEL_COLUMN: pa.int32()}


def find_damage(folder: Path, manifest: TableManifest) -> str | None:
    """What is wrong with the files of the table in `folder`, with the name of the first such file; None when nothing is.

    Found are files that are missing, no files but links or folders, cut short, changed, or of another schema.
    """
    files = [file for split in manifest.splits.values() for file in split.files]
    hash_all = sum(file.num_bytes for file in files) <= _MOST_BYTES_HASHED
    read_footer = set(range(0, len(files), max(1, -(-len(files) // _MOST_FOOTERS))))
    home = folder.resolve()

    def complaint(number: int) -> str | None:
        file = files[number]
        try:
            found = _look(home, file, manifest, hash_all, number in read_footer)
        except FileNotFoundError:
            found = "is missing"
        except OSError as error:
            found = f"cannot be read ({error.strerror or error})"
        return f"{file.path} {found}" if found else None

    with ThreadPoolExecutor(_THREADS) as pool:
        return next((text for text in pool.map(complaint, range(len(files))) if text), None)


def _look(home: Path, file: TableFile, manifest: TableManifest, hash_it: bool, read_footer: bool) -> str | None:
    path = home / file.path
    status = path.lstat()
    # Also where the folder of the split is the link.
    if path.resolve() != path:
        return "is a link that leads out of its place; a table holds its own files"
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    if status.st_size != file.num_bytes:
        return _reason(path, file, manifest) or f"has {status.st_size} bytes where the manifest says {file.num_bytes}"
    if hash_it:
        if fingerprint(path).sha256 != file.sha256:
            return _reason(path, file, manifest) or "is not as it was written: some of its bytes have changed"
        return None
    return _reason(path, file, manifest) if read_footer else None


def _reason(path: Path, file: TableFile, manifest: TableManifest) -> str | None:
    """What the footer and the first image tell about a file that is not as it was written."""
    try:
        with pq.ParquetFile(path) as parquet:
            metadata, columns = parquet.metadata, parquet.schema_arrow
            for name, dtype in _COLUMNS.items():
                if name not in columns.names:
                    return f"has no column '{name}'; its columns are {', '.join(columns.names)}"
                if columns.field(name).type != dtype:
                    return f"holds {columns.field(name).type} in column '{name}' instead of {dtype}"
            if (metadata.num_row_groups, metadata.num_rows) != (1, file.rows):
                groups = f"{metadata.num_row_groups} row group{'s' if metadata.num_row_groups > 1 else ''}"
                return f"holds {metadata.num_rows} rows in {groups} where the manifest says {file.rows} in one"
            first = next(parquet.iter_batches(batch_size=1, columns=[IMAGE_COLUMN])).column(0)[0].as_py()
    except (pa.ArrowException, OSError, StopIteration) as error:
        return f"is cut short or damaged ({first_line(error, 100)})"
    if first is None or len(first) != manifest.image.num_bytes:
        found, image = 0 if first is None else len(first), manifest.image
        return f"holds images of {found} bytes instead of {image.num_bytes} ({image.shape}, {image.dtype})"
    return None
