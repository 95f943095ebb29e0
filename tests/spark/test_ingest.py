import bz2
import collections
import gzip
import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.ingesting import ingest, rows_of
from support.reported import ReportedLines
from support.synthetic import images_and_labels, write_libsvm

from pipelines.data.formats import libsvm_compiled
from pipelines.data.sources import text_blocks
from pipelines.errors import DataError


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "digits"
    data.mkdir()
    write_libsvm(data / "digits-train.txt", 600, seed=1)
    write_libsvm(data / "digits-test.txt", 100, seed=2)
    return data


@pytest.mark.quick
def test_the_table_contains_the_rows_of_the_text_and_describes_them(spark, folder, tmp_path):
    built, new = ingest(spark, folder, tmp_path / "tables")
    assert new
    images, labels = images_and_labels(600, seed=1)
    expected = collections.Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    assert collections.Counter(rows_of(built, "train") + rows_of(built, "validation")) == expected
    assert [built.manifest.rows(split) for split in ("train", "validation", "test")] == [540, 60, 100]
    assert built.manifest.splits["test"].rows_per_label == tuple(np.bincount(images_and_labels(100, seed=2)[1]))
    assert [source.rows for source in built.manifest.sources] == [600, 100]
    assert built.manifest.spec.dtype == "uint8"


def test_row_groups_have_equal_size_except_the_last(spark, folder, tmp_path):
    built, _ = ingest(spark, folder, tmp_path / "tables", "ingest.rows_per_row_group=70")
    sizes = [file.rows for file in built.manifest.splits["train"].files]
    assert sizes == [70] * 7 + [50]


def test_the_order_depends_only_on_the_seed_not_on_partitioning(spark, folder, tmp_path, monkeypatch):
    first, _ = ingest(spark, folder, tmp_path / "a")
    other, _ = ingest(spark, folder, tmp_path / "a", "ingest.seed=2")
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 20000)
    second, _ = ingest(spark, folder, tmp_path / "b")
    # Without Numba, Spark reads the lines and keeps the rows.
    monkeypatch.setattr(libsvm_compiled, "is_installed", lambda: False)
    third, _ = ingest(spark, folder, tmp_path / "c")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "20000")
    try:
        fourth, _ = ingest(spark, folder, tmp_path / "d")
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    for split in ("train", "validation", "test"):
        assert rows_of(first, split) != rows_of(other, split)
        for again in (second, third, fourth):
            assert rows_of(first, split) == rows_of(again, split)
    assert first.manifest.splits == second.manifest.splits == third.manifest.splits == fourth.manifest.splits


def test_malformed_lines_are_set_aside_alike_wherever_lines_are_read(spark, folder, tmp_path, monkeypatch):
    lines = (folder / "digits-train.txt").read_text().splitlines()
    lines[3:3], lines[500:500] = ["2 5:1 145:9", "", "x"], ["# nothing", "3 5:1 4:1"]
    (folder / "digits-train.txt").write_text("\n".join(lines))
    quarantine = ("ingest.on_bad_rows=quarantine", "ingest.max_bad_fraction=0.1")
    tables = []
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 30000)
    for way, has_numba in (("blocks", True), ("lines", False)):
        monkeypatch.setattr(libsvm_compiled, "is_installed", lambda has_numba=has_numba: has_numba)
        built, _ = ingest(spark, folder, tmp_path / way, *quarantine)
        (rejected,) = (tmp_path / way).rglob("_rejected/*.parquet")
        tables.append((built.manifest.rejected_by_reason, built.manifest.splits, pq.read_table(rejected).to_pylist()))
    assert tables[0] == tables[1]
    assert [row["line"] for row in tables[0][2]] == [4, 6, 502]


def test_the_table_is_reused_only_for_the_same_source_and_settings(spark, folder, tmp_path):
    first, _ = ingest(spark, folder, tmp_path / "tables")
    again, new = ingest(spark, folder, tmp_path / "tables")
    assert not new
    assert again == first
    with (folder / "digits-test.txt").open("a") as file:
        file.write("1 3:7\n")
    changed, new = ingest(spark, folder, tmp_path / "tables")
    assert new
    assert changed.manifest.rows("test") == 101


@pytest.mark.parametrize("ending", ["", ".bz2", ".gz"])
def test_a_malformed_line_is_reported_with_file_and_line_and_leaves_no_table(spark, folder, tmp_path, ending):
    lines = (folder / "digits-train.txt").read_text().splitlines()
    lines[412] = "2 5:1 145:9"
    (folder / "digits-train.txt").unlink()
    text = ("\n".join(lines) + "\n").encode()
    compress = {"": bytes, ".bz2": bz2.compress, ".gz": gzip.compress}[ending]
    (folder / f"digits-train.txt{ending}").write_bytes(compress(text))
    spark.conf.set("spark.sql.files.maxPartitionBytes", "20000")
    try:
        with pytest.raises(DataError, match=rf"digits-train\.txt{ending}:413: .*145.*144"):
            ingest(spark, folder, tmp_path / "tables")
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    assert not list((tmp_path / "tables").glob("*"))
    assert not list((tmp_path / "tables").glob(".building*"))


def test_labels_can_be_any_integers_and_values_any_numbers(spark, tmp_path):
    file = tmp_path / "two.libsvm"
    file.write_text("".join(f"{label} 1:{value} 4:1\n" for label, value in [(-1, 0.25), (1, -2)] * 20))
    settings = ("data.image_shape=[2, 2, 1]", "data.classes=2", "data.labels=[-1, 1]", "data.value_range=[-2, 1]")
    built, _ = ingest(spark, file, tmp_path / "tables", *settings)
    assert built.manifest.spec.dtype == "float32"
    everything = [row for split in ("train", "validation", "test") for row in rows_of(built, split)]
    found = {(tuple(np.frombuffer(image, "<f4")), label) for image, label in everything}
    assert found == {((0.25, 0, 0, 1), 0), ((-2, 0, 0, 1), 1)}
    assert built.manifest.rows("test") == 4


def test_rows_of_one_class_only_are_told_whenever_the_table_is_opened(spark, tmp_path):
    file = tmp_path / "one.libsvm"
    file.write_text("0 1:3\n" * 40)
    for new in (True, False):
        lines = ReportedLines()
        assert ingest(spark, file, tmp_path / "tables", "data.image_shape=[2, 2, 1]", reporter=lines)[1] == new
        told = "all rows of train, validation and test are of class 0: the network cannot learn a class that it never sees"
        assert f"warning: {told}" in lines


def test_folder_names_can_contain_special_characters(spark, folder, tmp_path):
    odd = tmp_path / "my [first] {50%20} d\u00e9j\u00e0 vu"
    folder.rename(odd)
    built, _ = ingest(spark, odd, odd / "tables")
    assert built.manifest.rows("test") == 100


def test_a_file_in_parts_becomes_the_same_table(spark, folder, tmp_path):
    whole, _ = ingest(spark, folder, tmp_path / "tables")
    for split, cuts in (("train", (0, 1, 250, 600)), ("test", (0, 60, 60, 100))):
        text = (folder / f"digits-{split}.txt").read_text().splitlines(keepends=True)
        (folder / f"digits-{split}.txt").unlink()
        (folder / f"{split}.libsvm").mkdir()
        for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
            (folder / f"{split}.libsvm" / f"part-{number:05d}").write_text("".join(text[start:stop]))
        (folder / f"{split}.libsvm" / "_SUCCESS").write_text("")
    # A part may be without rows.
    (folder / "train.libsvm" / "part-00003").write_text("# nothing\n")
    parts, _ = ingest(spark, folder, tmp_path / "tables")
    assert [source.rows for source in parts.manifest.sources] == [1, 249, 350, 0, 60, 40]
    for split in ("train", "validation", "test"):
        assert rows_of(parts, split) == rows_of(whole, split)


def truncated(packed):
    return packed[: len(packed) // 2]


def changed(packed):
    return packed[: len(packed) // 2] + bytes([packed[len(packed) // 2] ^ 1]) + packed[len(packed) // 2 + 1 :]


def stored(text):
    """gzip without compression: a changed byte yields other text, which only the checksum detects."""
    return gzip.compress(text, compresslevel=0)


@pytest.mark.parametrize(
    ("ending", "compress", "damage"),
    [
        (".gz", gzip.compress, truncated),
        (".gz", stored, changed),
        (".bz2", bz2.compress, truncated),
        (".bz2", bz2.compress, changed),
    ],
    ids=["gz truncated", "gz changed", "bz2 truncated", "bz2 changed"],
)
def test_a_damaged_compressed_file_is_reported_with_its_line(spark, folder, tmp_path, ending, compress, damage):
    packed = compress((folder / "digits-train.txt").read_bytes())
    (folder / "digits-train.txt").unlink()
    (folder / f"digits-train.txt{ending}").write_bytes(damage(packed))
    with pytest.raises(
        DataError, match=rf"digits-train\.txt{ending}:\d+: the compressed data is truncated .*copy the file again"
    ):
        ingest(spark, folder, tmp_path / "tables")
    assert not (tmp_path / "tables").exists() or not list((tmp_path / "tables").iterdir())


def test_an_empty_file_is_an_error(spark, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty\.txt"):
        ingest(spark, tmp_path / "empty.txt", tmp_path / "tables")


def _mnist_folder():
    return Path(os.environ.get("CONVOY_MNIST_DIR") or Path(__file__).parents[3] / "shared/data/mnist-digits/data-001")


@pytest.mark.skipif(not _mnist_folder().is_dir(), reason="the 70,000 digits are not here; CONVOY_MNIST_DIR names their folder")
def test_the_whole_of_mnist(spark, tmp_path):
    built, _ = ingest(spark, _mnist_folder(), tmp_path, "data.image_shape=[28, 28, 1]", "data.classes=10")
    assert [built.manifest.rows(split) for split in ("train", "validation", "test")] == [54_000, 6_000, 10_000]
    per_label = np.sum([built.manifest.splits[split].rows_per_label for split in ("train", "validation")], axis=0)
    # Counts given by the authors.
    assert per_label.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert sum(file.stat().st_size for file in Path(built.uri).rglob("*.parquet")) < 15_000_000
