"""Which folders are classes, and the errors for folders that cannot be."""

import pytest
from support.reported import ReportedLines

from pipelines.config import DataConfig
from pipelines.data.sources.resolve import resolve_source
from pipelines.errors import ConfigError, DataError
from pipelines.system.reporter import NullReporter

PNG = b"\x89PNG"


def make(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(PNG)
    return root


def resolve(root, lines=None, **settings):
    data = DataConfig(dataset=str(root), image_shape=(8, 8, 3), wait_seconds=0, **settings)
    return resolve_source(data, lines if lines is not None else NullReporter())


def test_sub_folders_are_classes_and_the_origin_of_test_rows_is_reported(tmp_path):
    lines = ReportedLines()
    found = resolve(make(tmp_path / "Pets", "dog/2.png", "cat/1.JPG", "cat/notes.txt", "cat/.hidden.png"), lines, classes=2)
    assert found.dataset == "pets"
    assert found.files == ((f"{tmp_path}/Pets", "train"),)
    assert found.classes == ("cat", "dog")
    assert [(picture.name, picture.label) for picture in found.pictures[0]] == [("cat/1.JPG", 0), ("dog/2.png", 1)]
    assert "2 classes (cat, dog), 2 train, from which test rows are drawn (ingest.test_fraction)" in lines[0]
    assert "1 file ignored" in lines[1]
    assert lines[1].endswith("cat/notes.txt)")


def test_train_and_test_are_splits_if_they_contain_folders_and_classes_if_they_contain_pictures(tmp_path):
    split = resolve(make(tmp_path / "a", "train/cat/1.png", "train/dog/1.png", "test/dog/2.png"), classes=2)
    assert split.files == ((f"{tmp_path}/a/train", "train"), (f"{tmp_path}/a/test", "test"))
    assert split.locate(1, 0) == (f"{tmp_path}/a/test/dog/2.png", None)
    vehicles = resolve(make(tmp_path / "b", "train/1.png", "test/1.png", "bus/1.png"), classes=3)
    assert vehicles.classes == ("bus", "test", "train")


def test_folders_named_by_numbers_are_sorted_numerically_and_class_names_reorder_them(tmp_path):
    root = make(tmp_path / "a", *[f"{number}/1.png" for number in range(11)])
    assert resolve(root, classes=11).classes == tuple(map(str, range(11)))
    named = resolve(make(tmp_path / "b", "cat/1.png", "dog/1.png"), classes=3, class_names=("dog", "cow", "cat"))
    assert [picture.label for picture in named.pictures[0]] == [0, 2]
    # The way a model trained on the first folder describes its classes.
    described = resolve(tmp_path / "b", classes=3, class_names=("dog", "cow", "cat"), labels=(0, 1, 2))
    assert described == named


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (["cat/1.png", "dog/1.png"], {}, r"data\.classes=10: must be the number of sub-folders in .*, which has 2 \(cat, dog\)"),
        (["cat/1.png", "dog/1.png"], {"classes": 2, "labels": (1, 2)}, r"data\.labels=\[1, 2\]: must be empty"),
        (["cat/1.png", "dog/1.png"], {"classes": 2, "class_names": ("cat", "cow")}, r"must also name .*/dog"),
        (["cat/1.png", "dog/1.txt"], {"classes": 2}, r"dog: contains no pictures; their names end in \.png"),
        (["cat/1.png", "dog/1.png", "3.png"], {"classes": 2}, r"3\.png: this picture has no class"),
        (["cat/1.png", "dog/old/1.png"], {"classes": 2}, r"dog/old: a folder inside a class"),
        (["train/cat/1.png", "test/cat/1.png", "val/cat/1.png"], {"classes": 2}, r"val: is next to train/ and test/"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], {"classes": 2}, r"test/c: is not a class of the training pictures"),
    ],
)
def test_a_folder_that_cannot_be_a_data_set_is_rejected_in_one_line(tmp_path, files, settings, message):
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        resolve(make(tmp_path / "data", *files), **settings)
    assert "\n" not in str(caught.value)


def test_pictures_have_one_three_or_four_channels(tmp_path):
    root = make(tmp_path / "data", "cat/1.png", "dog/1.png")
    with pytest.raises(ConfigError, match=r"data\.image_shape=\[8, 8, 2\]: must have 1, 3 or 4 channels for pictures"):
        resolve_source(DataConfig(dataset=str(root), image_shape=(8, 8, 2), classes=2), NullReporter())
