"""The hashes by which a model's training rows are recognized, and the test rows among them."""

import dataclasses

import numpy as np
import pytest
from support.synthetic import images_and_labels

from pipelines.config import loader
from pipelines.data.ingest import table, training_rows
from pipelines.data.ingest.permutation import Segment
from pipelines.data.ingest.write_pass import WrittenFile
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.table import row_hashes
from pipelines.data.table.row_hashes import MAX_LIMIT, TrainingRows, hash_images, limit_for
from pipelines.errors import DataError

IMAGES, _ = images_and_labels(200)


def test_an_image_has_the_same_hash_in_every_dtype_and_others_have_others():
    hashes = hash_images(IMAGES)
    assert len(np.unique(hashes)) == 200
    floats = IMAGES.astype(np.float32)
    floats[floats == 0] = -0.0
    # One row with a fraction leaves the hashes of the others alone.
    floats[7, 0, 0, 0] += 0.5
    same = hash_images(floats.astype(">f4")) == hashes
    assert list(np.flatnonzero(~same)) == [7]
    for value in (-1, 256, 0.5, np.nan):
        floats[7, 0, 0, 0] = value
        assert hash_images(floats)[7] != hashes[7]


def test_training_rows_are_found_and_survive_their_file(tmp_path):
    rows = TrainingRows(np.unique(hash_images(IMAGES[:120])))
    (tmp_path / "rows.npy").write_bytes(rows.to_bytes())
    read = TrainingRows.read(tmp_path / "rows.npy")
    assert read.is_complete
    assert list(np.flatnonzero(read.contain(hash_images(IMAGES)))) == list(range(120))
    assert not TrainingRows(np.empty(0, np.uint64)).contain(hash_images(IMAGES)).any()
    assert TrainingRows.read(tmp_path / "none.npy") is None
    for damaged in (b"", rows.to_bytes()[:-3], b"x" * 300):
        (tmp_path / "rows.npy").write_bytes(damaged)
        with pytest.raises(DataError, match=r"rows\.npy: .*copy the folder again"):
            TrainingRows.read(tmp_path / "rows.npy")


def test_a_large_table_keeps_a_sample_of_its_hashes(monkeypatch):
    assert limit_for(2**21) == MAX_LIMIT
    monkeypatch.setattr(row_hashes, "_MAX_HASHES", 100)
    hashes = hash_images(IMAGES)
    kept = hashes[hashes <= limit_for(200)]
    assert 60 < len(kept) < 140
    assert not TrainingRows(np.unique(kept), limit_for(200)).is_complete


def segments_and_files(train, test):
    def segment(split, rows):
        return Segment(split=split, origin=split, start=0, rows=rows, rows_per_file=rows)

    segments = [segment("train", len(train)), segment("test", len(test))]
    files = [WrittenFile(number, 0, 1, "", [1], hash_images(images).tobytes()) for number, images in enumerate((train, test))]
    return segments, files


@pytest.mark.parametrize("named", [True, False])
def test_test_rows_that_are_training_rows_are_counted_and_a_named_copy_is_refused(named):
    def check(train, test):
        segments, files = segments_and_files(train, test)
        rows = training_rows.collect(segments, files, MAX_LIMIT)
        return training_rows.repeated_test_rows(segments, files, rows, test_file_is_named=named)

    assert check(IMAGES[:100], IMAGES[100:]) == ""
    assert check(IMAGES[:100], IMAGES[97:]).startswith("3 of 103 test rows have the values of a training row")
    if named:
        with pytest.raises(DataError, match="every row of the test file is also a row of the training file"):
            check(IMAGES[:100], IMAGES[40:60])
    else:
        assert check(IMAGES[:100], IMAGES[40:60]).startswith("20 of 20 ")


def test_a_test_file_that_is_a_copy_of_the_training_file_is_refused_before_spark_starts(tmp_path):
    (tmp_path / "a.txt").write_text("1 1:1\n")
    (tmp_path / "b.txt").write_text("1 1:1\n")
    config = loader.load(None, [f"ingest.tables_uri={tmp_path}", f"data.test_file={tmp_path}/b.txt"])
    source = LibsvmFiles("a", ((str(tmp_path / "a.txt"), "train"), (str(tmp_path / "b.txt"), "test")))
    assert table.find(loader.load(None, [f"ingest.tables_uri={tmp_path}"]), source) is None
    with pytest.raises(DataError, match=r"b\.txt: has the same content as the training data .*a\.txt"):
        table.find(config, source)
    (tmp_path / "b.txt").write_text("1 1:2\n")
    assert table.find(config, source) is None
    assert table.find(config, dataclasses.replace(source, files=source.files[:1])) is None
