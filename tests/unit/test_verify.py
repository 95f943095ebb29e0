import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.synthetic import write_table

from pipelines.data.table import verify
from pipelines.data.table.row_hashes import TrainingRows
from pipelines.data.table.schema import TRAINING_ROWS_NAME
from pipelines.system.fingerprint import fingerprint

PART = "split=train/part-00001.parquet"


@pytest.fixture
def table(tmp_path):
    return tmp_path / "table", write_table(tmp_path / "table", {"train": 120, "test": 30}).manifest


def rewrite(path, change, **options):
    pq.write_table(change(pq.ParquetFile(path).read()), path, **options)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def move_away_and_link(path):
    outside = next(parent for parent in path.parents if parent.name == "table").with_name("outside")
    path.rename(outside)
    path.symlink_to(outside)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def with_images_of(size):
    def change(columns):
        return columns.set_column(0, "image", pa.array([b"x" * size] * len(columns), pa.binary()))

    return change


DAMAGES = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "cut short": (lambda path: os.truncate(path, 200), "is truncated or damaged"),
    "empty": (lambda path: os.truncate(path, 0), "is truncated or damaged"),
    "a link": (move_away_and_link, "is a symbolic link"),
    "split is a link": (lambda path: move_away_and_link(path.parent), "is a symbolic link"),
    "a folder": (replace_by_folder, "is not a regular file"),
    "column renamed": (
        lambda path: rewrite(path, lambda columns: columns.rename_columns(["pixels", "label"])),
        "has no column 'image'; its columns are pixels, label",
    ),
    "other type": (
        lambda path: rewrite(path, lambda columns: columns.set_column(1, "label", columns["label"].cast(pa.int64()))),
        "has int64 in column 'label' instead of int32",
    ),
    "other image size": (lambda path: rewrite(path, with_images_of(64)), "has 64 bytes in column 'image' instead of 144"),
    "fewer rows": (
        lambda path: rewrite(path, lambda columns: columns.slice(0, 30)),
        "has 30 rows in 1 row group where the manifest says 50 in one",
    ),
    "two row groups": (lambda path: rewrite(path, lambda columns: columns, row_group_size=25), "has 50 rows in 2 row groups"),
}


def test_an_unchanged_table_passes(table):
    assert verify.find_damage(*table) is None


@pytest.mark.parametrize("large", [False, True], ids=["hashed", "too large to hash"])
@pytest.mark.parametrize(("damage", "text"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_reported_with_its_file(table, damage, text, large, monkeypatch):
    if large:
        monkeypatch.setattr(verify, "_MAX_BYTES_HASHED", 0)
    folder, manifest = table
    damage(folder / PART)
    defect = verify.find_damage(folder, manifest)
    assert defect is not None
    assert text in defect
    assert defect.startswith("split=train/part-0000")
    assert "\n" not in defect


def test_a_single_changed_bit_is_detected(table):
    folder, manifest = table
    flip_a_bit(folder / PART)
    assert verify.find_damage(folder, manifest) == f"{PART} is not as it was written: some of its bytes have changed"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x"), move_away_and_link])
def test_damaged_hashes_of_the_training_rows_are_detected(table, damage):
    folder, manifest = table
    (folder / TRAINING_ROWS_NAME).write_bytes(TrainingRows(np.arange(3, dtype=np.uint64)).to_bytes())
    manifest = dataclasses.replace(manifest, training_rows_sha256=fingerprint(folder / TRAINING_ROWS_NAME).sha256)
    assert verify.find_damage(folder, manifest) is None
    damage(folder / TRAINING_ROWS_NAME)
    assert verify.find_damage(folder, manifest) == "_training_rows.npy is missing or changed"


def test_the_driver_reads_a_bounded_number_of_footers_of_a_large_table(tmp_path, monkeypatch):
    manifest = write_table(tmp_path, {"train": 90}, rows_per_file=10).manifest
    monkeypatch.setattr(verify, "_MAX_BYTES_HASHED", 0)
    monkeypatch.setattr(verify, "_MAX_FOOTERS", 3)
    wrong = tuple(dataclasses.replace(file, rows=11) for file in manifest.splits["train"].files)
    # Every footer that is read contradicts the manifest; the files in between are not opened.
    for number in (1, 2, 4, 5, 7, 8):
        path = tmp_path / wrong[number].path
        path.write_bytes(b"\0" * path.stat().st_size)
    assert verify.find_damage(tmp_path, manifest) is None
    split = dataclasses.replace(manifest.splits["train"], files=wrong)
    defect = verify.find_damage(tmp_path, dataclasses.replace(manifest, splits={"train": split}))
    assert defect is not None
    assert "part-00000.parquet has 10 rows in 1 row group where the manifest says 11" in defect


def test_a_copied_table_passes_with_other_dates(table, tmp_path):
    folder, manifest = table
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert verify.find_damage(tmp_path / "copy", manifest) is None
    assert fingerprint(tmp_path / "copy" / PART) == fingerprint(folder / PART)
