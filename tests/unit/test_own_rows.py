"""Which classes and rows of a table a model is evaluated on."""

import dataclasses

import numpy as np
import pytest
from support.model_infos import MNIST
from support.synthetic import write_table

from pipelines.data.table import row_hashes
from pipelines.data.table.row_hashes import TrainingRows
from pipelines.data.table.schema import ReadingRules, Table
from pipelines.errors import DataError
from pipelines.score.evaluate import own_rows
from pipelines.score.evaluate.compatibility import class_order, reading_note
from pipelines.score.evaluate.own_rows import OwnRows, Recognized

TEXT, PICTURES = ReadingRules(source="libsvm"), ReadingRules(source="pictures")


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "t", {"train": 4, "validation": 2, "test": 3}, classes=2, shape=(4, 4, 1))


@pytest.fixture
def info(tmp_path):
    return dataclasses.replace(MNIST, path=tmp_path, num_classes=2, labels=(0, 1), class_names=("cat", "dog"), reading=TEXT)


@pytest.mark.parametrize(
    ("table_has", "model_has", "order"),
    [
        ({"class_names": ("cat", "dog")}, {}, (0, 1)),
        ({"class_names": ("dog", "cat")}, {}, (1, 0)),
        ({"class_names": ("dog", "cat"), "reading": PICTURES}, {"reading": None, "labels": (7, 8)}, (1, 0)),
        ({"class_names": ("dog", "cow")}, {}, None),
        # Label values are compared only where they mean something.
        ({"class_names": ("0", "1")}, {}, (0, 1)),
        ({"class_names": ("1", "0"), "labels": (1, 0)}, {}, (1, 0)),
        ({"class_names": ("dog", "cat")}, {"class_names": ("0", "1")}, (0, 1)),
        ({"class_names": ("0", "1"), "labels": (0, 1)}, {"labels": (1, 2)}, None),
        ({"class_names": ("0", "1")}, {"reading": PICTURES}, None),
        ({"class_names": ("0", "1"), "reading": PICTURES}, {}, None),
        ({"class_names": ("0", "1"), "reading": None}, {}, None),
        ({"class_names": ("0", "1")}, {"reading": None}, None),
        ({"class_names": ("dog", "cow")}, {"describes_classes": False}, (0, 1)),
    ],
)
def test_classes_are_matched_by_name_or_refused(table, info, table_has, model_has, order):
    manifest, info = dataclasses.replace(table.manifest, **table_has), dataclasses.replace(info, **model_has)
    if order is not None:
        assert class_order(info, manifest, "t") == order
        return
    with pytest.raises(
        DataError, match=r"^table t: has the classes \w+, \w+, but model runs:/1/model was trained on cat, dog; name"
    ):
        class_order(info, manifest, "t")


def test_another_number_of_classes_is_refused(table, info):
    with pytest.raises(DataError, match=r"table t: has 2 classes, but model runs:/1/model was trained on 3"):
        class_order(dataclasses.replace(info, num_classes=3, describes_classes=False), table.manifest, "t")


def test_a_table_that_was_read_from_another_first_index_is_pointed_out(table, info):
    zero_based = dataclasses.replace(info, reading=dataclasses.replace(TEXT, zero_based=True))
    note = reading_note(zero_based, table.manifest, "t")
    assert note.startswith("table t: was read with indices from 1, the data of model runs:/1/model with indices from 0;")
    for other in (info, dataclasses.replace(info, reading=PICTURES), dataclasses.replace(info, reading=None)):
        assert reading_note(other, table.manifest, "t") == ""


def test_training_rows_are_recognized_by_record_or_by_the_tables_digest(table, info):
    everything = ("train", "validation", "test")
    own = dataclasses.replace(info, table_digest=table.manifest.digest)
    assert own_rows.plan(own, table, ("test",), keep=False) == OwnRows(compare=False)
    for splits in (("train",), everything):
        plan = own_rows.plan(own, table, splits, keep=False)
        assert (plan.compare, plan.splits) == (False, ("train", "validation"))
    unknown = own_rows.plan(info, table, ("test",), keep=True)
    assert "does not record the rows that it was trained on" in unknown.note
    (info.path / row_hashes.FILE_NAME).write_bytes(TrainingRows(np.arange(3, dtype=np.uint64)).to_bytes())
    assert own_rows.plan(own, table, everything, keep=True) == OwnRows(compare=True)
    assert own_rows.plan(own, table, ("train",), keep=False) == OwnRows(compare=True)
    assert own_rows.plan(info, table, ("train",), keep=True) == OwnRows(compare=True)
    asked_for = own_rows.plan(own, table, ("validation",), keep=True)
    assert (asked_for.compare, asked_for.note) == (False, "model runs:/1/model was trained with these rows (validation)")
    other = Table(table.uri, dataclasses.replace(table.manifest, key="1" * 64))
    assert own_rows.plan(own, other, ("test",), keep=False) == OwnRows(compare=True)


def test_splits_that_are_training_rows_as_a_whole_are_left_out(info):
    known = OwnRows(compare=False, splits=("train", "validation"))
    assert own_rows.remaining_splits([OwnRows(compare=True), known], [info, info], ("train", "validation", "test")) == ("test",)
    with pytest.raises(DataError, match=r"all rows \(train\) are rows that model runs:/1/model was trained with"):
        own_rows.remaining_splits([known], [info], ("train",))


def test_a_sample_of_recorded_rows_is_enough_only_for_a_few(info):
    assert own_rows.describe(info, Recognized(known=0, comparable=50, rows=100)) == ""
    few = own_rows.describe(info, Recognized(known=1, comparable=1000, rows=3000))
    assert few.startswith("1 of 3,000 rows are left out")
    assert few.endswith("of the 2,000 rows that its record does not cover, 0.10 % may be, too")
    with pytest.raises(DataError, match=r"about 40 % of the rows are rows that model .* it records only a sample"):
        own_rows.describe(info, Recognized(known=20, comparable=50, rows=100))
