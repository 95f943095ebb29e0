import dataclasses

import pytest
from support.synthetic import write_table

from pipelines.data.table import empty_classes


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 8}).manifest


def counted(manifest, **rows):
    """The manifest with these rows by class."""
    names = tuple(str(number) for number in range(len(next(iter(rows.values())))))
    splits = {
        split: dataclasses.replace(manifest.splits["train"], rows=sum(counts), rows_per_label=tuple(counts))
        for split, counts in rows.items()
    }
    return dataclasses.replace(manifest, splits=splits, labels=tuple(map(int, names)), class_names=names)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"train": [3, 3], "validation": [1, 2], "test": [1, 1]}, ""),
        ({"train": [3, 3], "validation": [0, 0], "test": [1, 1]}, ""),
        (
            {"train": [8, 0, 0], "validation": [1, 0, 0], "test": [2, 0, 0]},
            "all rows of train, validation and test are of class 0: the network cannot learn a class that it never sees",
        ),
        (
            {"train": [8, 0, 1], "validation": [1, 1, 1], "test": [2, 1, 1]},
            "train has no row of class 1: the network cannot learn a class that it never sees",
        ),
        (
            {"train": [8, 1, 1], "validation": [1, 0, 1], "test": [2, 0, 2]},
            "validation and test have no row of class 1: test figures say nothing about them",
        ),
        (
            {"train": [1, 1, 1], "validation": [1, 0, 0], "test": [2, 0, 2]},
            "all rows of validation are of class 0; test has no row of class 1: test figures say nothing about them",
        ),
        (
            {"train": [1] * 15, "test": [1] * 3 + [0] * 12},
            "test has no row of class 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more: test figures say nothing about them",
        ),
    ],
    ids=str,
)
def test_classes_without_a_row_are_named_with_their_split(manifest, rows, expected):
    assert empty_classes.warning(counted(manifest, **rows)) == expected
