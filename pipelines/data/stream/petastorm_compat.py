"""Petastorm's reader of row groups, which leaves them to Arrow. The only module that imports petastorm.

Petastorm's own batch reader copies a row group and makes a Python object of each image. This one hands over Arrow's tables, and
`decode` returns views of their memory.

Petastorm 0.12 and 0.13 use what pyarrow 15 and 16 and numpy 2 removed. Where pyarrow is older nothing is done about that.
Otherwise petastorm's own modules get stand-ins for `np`, `pq` and `pyarrow` that do as much as reading a list of local files
takes; pyarrow and numpy stay as they are for all other code. A list of files has no common metadata, so petastorm unpickles
nothing.
"""

import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.table.row_parts import Part

# Petastorm looks for room in its queue every 10 ms, in which MNIST's small row groups would be used up.
_VENTILATION_SECONDS = 0.002


class _LocalFiles:
    """Stands in for `pyarrow.localfs`."""

    @staticmethod
    def open(path: str) -> Any:
        return pa.OSFile(path)


class _Piece:
    """Stands in for `pq.ParquetDatasetPiece`: a row group of a file, or the whole file where `row_group` is None."""

    def __init__(self, path: str, open_file_func: Any = None, row_group: int | None = None, partition_keys: Any = ()) -> None:
        self.path = path
        self.row_group = row_group
        self.partition_keys = partition_keys

    def get_metadata(self) -> Any:
        with pq.ParquetFile(_LocalFiles.open(self.path)) as file:
            return file.metadata


class _Dataset:
    """Stands in for `pq.ParquetDataset`: a list of files, without partitions and common metadata."""

    metadata = None
    common_metadata = None
    partitions = None

    def __init__(self, path_or_paths: str | Sequence[str], filesystem: Any, *, filters: Any = None, **_: Any) -> None:
        if filters is not None:
            raise NotImplementedError("petastorm's filters are not supported here")
        self.paths = [path_or_paths] if isinstance(path_or_paths, str) else list(path_or_paths)
        self.pieces = [_Piece(path) for path in self.paths]
        self.fs = filesystem


def _stand_in(module: ModuleType, **names: Any) -> ModuleType:
    """A module that has some names otherwise than another, and all else in common with it."""
    proxy = ModuleType(module.__name__)
    proxy.__dict__.update(names, __getattr__=lambda name: getattr(module, name))
    return proxy


@contextmanager
def _importable(**modules: dict[str, Any]) -> Iterator[None]:
    """Modules that only exist while petastorm is imported, by their full names; those that really exist are left as they are."""
    added = []
    for full_name, names in modules.items():
        try:
            exists = full_name in sys.modules or importlib.util.find_spec(full_name) is not None
        except ModuleNotFoundError:
            exists = False
        if not exists:
            sys.modules[full_name] = ModuleType(full_name)
            sys.modules[full_name].__dict__.update(names)
            added.append(full_name)
    try:
        yield
    finally:
        for full_name in added:
            del sys.modules[full_name]


def _import_with_stand_ins() -> None:
    """Import petastorm, and give its modules the stand-ins."""
    # Imported at the top of petastorm's modules for file systems that are not used here.
    removed: dict[str, dict[str, Any]] = {
        "pyarrow.filesystem": {"LocalFileSystem": None},
        "pyarrow.hdfs": {"HadoopFileSystem": object},
        "distutils": {},
        "distutils.version": {"LooseVersion": None},
    }
    numpy = _stand_in(np, string_=np.bytes_, unicode_=np.str_)
    parquet = _stand_in(pq, ParquetDataset=_Dataset, ParquetDatasetPiece=_Piece)
    arrow = _stand_in(pa, localfs=_LocalFiles())
    with _importable(**removed):
        importlib.import_module("petastorm.reader")
        for name, stand_ins in {
            "reader": {"pq": parquet},
            "arrow_reader_worker": {"np": numpy, "pq": parquet},
            "etl.dataset_metadata": {"pq": parquet},
            "fs_utils": {"pyarrow": arrow},
            "unischema": {"np": numpy},
        }.items():
            vars(importlib.import_module(f"petastorm.{name}")).update(stand_ins)


if int(pa.__version__.partition(".")[0]) >= 15:
    _import_with_stand_ins()

from petastorm.arrow_reader_worker import ArrowReaderWorker  # noqa: E402
from petastorm.fs_utils import get_filesystem_and_path_or_paths  # noqa: E402
from petastorm.reader import Reader  # noqa: E402
from petastorm.workers_pool import EmptyResultError  # noqa: E402
from petastorm.workers_pool.thread_pool import ThreadPool  # noqa: E402


class _ArrowResults:
    """Hands row groups over as the worker read them."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> Any:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _ArrowWorker(ArrowReaderWorker):
    """Reads row groups as tables, from the file that petastorm has opened."""

    @staticmethod
    def new_results_queue_reader() -> _ArrowResults:
        return _ArrowResults()

    def _load_rows(self, pq_file: Any, piece: Any, shuffle_row_drop_range: Any) -> Any:
        return pq_file.read_row_group(piece.row_group, columns=list(self._schema.fields), use_threads=False)


class _RowGroups(Reader):
    """Iterates over tables."""

    def _create_ventilator(self, *args: Any, **options: Any) -> Any:
        ventilator = super()._create_ventilator(*args, **options)
        ventilator._ventilation_interval = _VENTILATION_SECONDS
        return ventilator


def read_row_groups(urls: Sequence[str], columns: Collection[str]) -> Any:
    """A reader that decodes row groups ahead of time in one thread; must be stopped and joined.

    Args:
        urls: `file:` URLs of Parquet files.
        columns: names of the columns to read.

    Returns:
        An iterator over the `pa.Table` of each row group, by the path of its file.

    Raises:
        OSError, ValueError: a file cannot be read. Iteration raises them, too.
    """
    filesystem, files = get_filesystem_and_path_or_paths(list(urls))
    return _RowGroups(
        filesystem,
        files,
        schema_fields=[f"^{column}$" for column in columns],
        worker_class=_ArrowWorker,
        # With more threads row groups could arrive out of order.
        reader_pool=ThreadPool(1),
        shuffle_row_groups=False,
        is_batched_reader=True,
    )


def decode(row_group: Any, part: Part) -> npt.NDArray[Any]:
    """The values of a part of n rows.

    Args:
        row_group: a `pa.Table` of n rows, at least one.
        part: numbers or binary values.

    Returns:
        Values [n, *part.shape]; of a binary column a view of Arrow's memory, unless it is in several pieces.

    Raises:
        ValueError, NotImplementedError: the column is missing or of another type, or a value is missing or of another length.
    """
    if part.column not in row_group.column_names:
        raise ValueError(f"there is no column {part.column}")
    column = row_group.column(part.column)
    if column.null_count:
        raise ValueError(f"a value of column {part.column} is missing")
    if not part.is_binary:
        return np.asarray(column.to_numpy(), part.dtype)
    chunks = [_decode_binary(chunk, part) for chunk in column.cast(pa.binary()).chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _decode_binary(array: Any, part: Part) -> npt.NDArray[Any]:
    _, offsets, values = array.buffers()
    # A slice of an array has the buffers of the whole.
    bounds = np.frombuffer(offsets, np.int32, len(array) + 1, 4 * array.offset)
    if (np.diff(bounds) != part.num_bytes).any():
        raise ValueError(f"a value of column {part.column} does not have the {part.num_bytes} bytes of {part.shape} {part.dtype}")
    dtype = np.dtype(part.dtype).newbyteorder("<")
    return np.frombuffer(values, dtype, len(array) * part.num_values, int(bounds[0])).reshape(-1, *part.shape)
