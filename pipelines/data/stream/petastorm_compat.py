"""Petastorm's batch reader, also with pyarrow 15 and later and with numpy 2. The only module that imports petastorm.

Petastorm 0.12 and 0.13 use what pyarrow 15 and 16 and numpy 2 removed. Where pyarrow is older nothing is done here. Otherwise
petastorm's own modules get stand-ins for `np`, `pq` and `pyarrow` that do as much as reading a list of local files takes; pyarrow
and numpy stay as they are for all other code. A list of files has no common metadata, so petastorm unpickles nothing.
"""

import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["make_batch_reader"]


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

    def read(self, columns: Collection[str], partitions: Any = None) -> Any:
        with pq.ParquetFile(_LocalFiles.open(self.path)) as file:
            return file.read_row_group(self.row_group, columns=list(columns))


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


def _patched_reader() -> Any:
    """`make_batch_reader` of a petastorm whose modules have the stand-ins."""
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
        reader = importlib.import_module("petastorm.reader")
        for name, stand_ins in {
            "reader": {"pq": parquet},
            "arrow_reader_worker": {"np": numpy, "pq": parquet},
            "etl.dataset_metadata": {"pq": parquet},
            "fs_utils": {"pyarrow": arrow},
            "unischema": {"np": numpy},
        }.items():
            vars(importlib.import_module(f"petastorm.{name}")).update(stand_ins)
    return reader.make_batch_reader


if int(pa.__version__.partition(".")[0]) < 15:
    from petastorm import make_batch_reader
else:
    make_batch_reader = _patched_reader()
