"""Petastorm's batch reader on this pyarrow and numpy. `.ci/petastorm` runs this file on others."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.synthetic import images_and_labels, write_table

from pipelines.data.stream.petastorm_compat import make_batch_reader
from pipelines.data.stream.reader import read_blocks
from pipelines.data.stream.sharding import RowRange
from pipelines.errors import DataError

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


def read(files, **options):
    urls = [f"file://{file}" for file in files]
    with make_batch_reader(urls, workers_count=1, shuffle_row_groups=False, num_epochs=1, **options) as reader:
        return [batch._asdict() for batch in reader]


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
    batches = read([file])
    assert [len(batch["number"]) for batch in batches] == [4, 4, 2]
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in columns}
    assert joined["bytes"].tolist() == [bytes([n]) * n for n in range(10)]
    assert joined["text"].tolist() == columns["text"]
    assert joined["text"].dtype.kind == "U"
    assert joined["number"].dtype == np.int64
    assert joined["real"].dtype == np.float32
    np.testing.assert_array_equal(joined["vector"], [[n, n + 1] for n in range(10)])


def test_only_the_columns_that_are_asked_for_are_read(tmp_path):
    file = tmp_path / "part.parquet"
    pq.write_table(pa.table({"label": [1, 2], "labels": [3, 4]}), file)
    (batch,) = read([file], schema_fields=["^label$"])
    assert list(batch) == ["label"]


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
        read([file])
    file.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises((OSError, ValueError)):
        read([file])


def test_numpy_and_pyarrow_stay_as_they_are_for_other_code():
    done = subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == {"changed": [], "stubs": [], "as they were": BEFORE_15}
