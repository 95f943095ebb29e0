"""Petastorm's reader on this pyarrow and numpy. `.ci/petastorm` runs this file on others."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.synthetic import images_and_labels, write_table

from pipelines.data.stream.petastorm_compat import decode, read_row_groups
from pipelines.data.stream.reader import read_blocks
from pipelines.data.stream.sharding import RowRange
from pipelines.data.table.row_parts import Part
from pipelines.data.table.schema import Table
from pipelines.errors import DataError
from pipelines.system.fingerprint import fingerprint

ROOT = Path(__file__).parents[2]
BEFORE_15 = int(pa.__version__.partition(".")[0]) < 15

# What other code sees of numpy and pyarrow, before and after the import, and whose names petastorm's modules use.
WATCH = """
import json, sys, types
import numpy, pyarrow, pyarrow.parquet
modules = {"numpy": numpy, "pyarrow": pyarrow, "pyarrow.parquet": pyarrow.parquet}
before = {name: dict(vars(module)) for name, module in modules.items()}
import pandas, fsspec
import pipelines.data.stream.petastorm_compat
import petastorm.reader, petastorm.unischema
changed = [
    f"{name}.{key}"
    for name, module in modules.items()
    for key in sorted(vars(module).keys() | before[name].keys())
    if vars(module).get(key) is not before[name].get(key) and not isinstance(vars(module).get(key), types.ModuleType)
]
stubs = [name for name in ("pyarrow.filesystem", "pyarrow.hdfs") if getattr(sys.modules.get(name, json), "__spec__") is None]
print(json.dumps({
    "changed": changed,
    "stubs": stubs,
    "as they were": petastorm.reader.pq is pyarrow.parquet and petastorm.unischema.np is numpy,
}))
"""


def read(files, columns):
    reader = read_row_groups([f"file://{file}" for file in files], columns)
    try:
        return list(reader)
    finally:
        reader.stop()
        reader.join()


def test_a_table_is_read_row_for_row(tmp_path):
    table = write_table(tmp_path, {"train": 730}, rows_per_file=50)
    images, labels = images_and_labels(730, seed=0)
    blocks = list(read_blocks(table, "train", RowRange(0, 730)))
    np.testing.assert_array_equal(np.concatenate([block[0] for block in blocks]), images)
    np.testing.assert_array_equal(np.concatenate([block[1] for block in blocks]), labels)


def test_each_row_group_is_a_batch_with_the_types_of_its_columns(tmp_path):
    file = tmp_path / "part.parquet"
    columns = {
        "bytes": pa.array([bytes([n]) * n for n in range(10)], pa.binary()),
        "text": [f"row {n}" for n in range(10)],
        "number": pa.array(range(10), pa.int64()),
        "real": pa.array([n / 4 for n in range(10)], pa.float32()),
        "vector": pa.array([[n, n + 1] for n in range(10)], pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(columns), file, row_group_size=4)
    tables = read([file], columns)
    assert [len(table) for table in tables] == [4, 4, 2]
    whole = pa.concat_tables(tables)
    assert whole.to_pydict() == pa.table(columns).to_pydict()
    assert {name: whole[name].type for name in columns} == {name: pa.array(values).type for name, values in columns.items()}


def test_only_the_columns_that_are_asked_for_are_read(tmp_path):
    file = tmp_path / "part.parquet"
    pq.write_table(pa.table({"label": [1, 2], "labels": [3, 4]}), file)
    (table,) = read([file], ["label"])
    assert table.column_names == ["label"]


PAIR = Part("pair", (2, 1), "float32")
PAIRS = np.arange(12, dtype="<f4").reshape(6, 2, 1)


def rows_of(values, kind=None):
    return pa.array([value if value is None else bytes(value) for value in values], kind or pa.binary())


@pytest.mark.parametrize(
    "column",
    [
        rows_of(PAIRS),
        rows_of(PAIRS, pa.large_binary()),
        rows_of([PAIRS[5], *PAIRS, PAIRS[0]]).slice(1, 6),
        rows_of([b"longer than a pair", b"", *PAIRS, b"shorter"]).slice(2, 6),
        pa.chunked_array([rows_of(PAIRS[:1]), rows_of([], pa.binary()), rows_of([b"other", *PAIRS[1:]]).slice(1)]),
    ],
    ids=["whole", "large", "slice", "slice of uneven rows", "chunks"],
)
def test_binary_values_are_decoded_wherever_they_lie_in_memory(column):
    values = decode(pa.table({"pair": column}), PAIR)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, PAIRS)


def test_decoded_values_are_a_view_that_outlives_the_table():
    table = pa.table({"pair": rows_of(PAIRS)})
    memory = np.frombuffer(table["pair"].chunk(0).buffers()[2], np.uint8)
    values = decode(table, PAIR)
    assert np.shares_memory(values, memory)
    del table, memory
    # Other rows take the memory if it is free.
    others = [rows_of(PAIRS + 100) for _ in range(100)]
    np.testing.assert_array_equal(values, PAIRS)
    assert len(others) == 100


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pair": rows_of([*PAIRS, b"1234567"])}, r"does not have the 8 bytes of \(2, 1\) float32"),
        ({"pair": rows_of([b"1234567", b"123456789"])}, "a value of column pair does not have the 8 bytes"),
        ({"pair": pa.chunked_array([rows_of(PAIRS), rows_of([b"1234"])])}, "does not have the 8 bytes"),
        ({"pair": rows_of([*PAIRS, None])}, "a value of column pair is missing"),
        ({"other": rows_of(PAIRS)}, "there is no column pair"),
        ({"pair": pa.array([1.5, 2.5])}, "pair|cast"),
    ],
)
def test_values_that_cannot_be_decoded_are_refused(columns, message):
    with pytest.raises((ValueError, NotImplementedError), match=message):
        decode(pa.table(columns), PAIR)


def test_numbers_are_decoded_to_the_type_of_their_part_unless_one_is_missing():
    part = Part("label", (), "int32")
    numbers = decode(pa.table({"label": pa.chunked_array([[3], [1, 2]], pa.int64())}), part)
    assert (numbers.tolist(), numbers.dtype) == ([3, 1, 2], np.int32)
    with pytest.raises(ValueError, match="a value of column label is missing"):
        decode(pa.table({"label": pa.array([1, None], pa.int32())}), part)


@pytest.mark.parametrize("image", [b"123", None], ids=["short", "missing"])
def test_a_file_whose_rows_are_not_those_of_the_table_is_a_data_error(tmp_path, image):
    table = write_table(tmp_path, {"train": 20})
    entry = table.manifest.splits["train"].files[0]
    content = pq.ParquetFile(tmp_path / entry.path).read()
    images = pa.array([*content["image"].to_pylist()[:-1], image], pa.binary())
    pq.write_table(content.set_column(0, "image", images), tmp_path / entry.path)
    entry = dataclasses.replace(entry, sha256=fingerprint(tmp_path / entry.path).sha256)
    split = dataclasses.replace(table.manifest.splits["train"], files=(entry,))
    table = Table(table.uri, dataclasses.replace(table.manifest, splits={"train": split}))
    with pytest.raises(DataError, match=r"a value of column image .* delete the folder and ingest again"):
        list(read_blocks(table, "train", RowRange(0, 20)))


@pytest.mark.parametrize("harm", ["torn", "gone"])
def test_a_file_that_cannot_be_read_is_a_data_error(tmp_path, harm):
    table = write_table(tmp_path, {"train": 20})
    file = tmp_path / table.manifest.splits["train"].files[0].path
    content = file.read_bytes()
    file.unlink()
    if harm == "torn":
        file.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"part-00000\.parquet"):
        list(read_blocks(table, "train", RowRange(0, 20)))


def test_a_file_that_is_no_parquet_and_one_that_is_gone_raise_what_the_reader_expects(tmp_path):
    file = tmp_path / "part.parquet"
    with pytest.raises((OSError, ValueError)):
        read([file], ["label"])
    file.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises((OSError, ValueError)):
        read([file], ["label"])


def test_numpy_and_pyarrow_stay_as_they_are_for_other_code():
    done = subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == {"changed": [], "stubs": [], "as they were": BEFORE_15}
