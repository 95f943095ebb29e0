"""Prediction of files without Spark: read as the training data were."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from support import bandmodels
from support.synthetic import images_and_labels, write_libsvm

from pipelines.errors import DataError
from pipelines.score import model_info
from pipelines.score.classifier import Classifier
from pipelines.score.predict import find_inputs, predict

NAMES = bandmodels.ABOUT["class_names"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = bandmodels.save(tmp_path_factory.mktemp("models") / "good")
    return Classifier(model_info.read(folder, "models:/bands/7"))


@pytest.fixture
def lines(tmp_path):
    write_libsvm(tmp_path / "a.libsvm", 9, seed=4)
    return (tmp_path / "a.libsvm").read_text().splitlines(keepends=True)


IMAGES, _ = images_and_labels(9, seed=4)
EXPECTED = [NAMES[best] for best in bandmodels.BandModel().predict(None, IMAGES).argmax(1)]


def labels(classifier, *files, **options):
    return [prediction.label for prediction in predict(classifier, [str(file) for file in files], digits=False, **options)]


@pytest.mark.parametrize("name", ["a.scale", "test", "_hidden.txt", "2026-11-29T20:04.libsvm"])
def test_a_named_file_is_text_whatever_its_ending_and_labels_do_not_matter(classifier, tmp_path, lines, name):
    unlabelled = [f"{label} {line.partition(' ')[2]}" for label, line in zip([0, 7, -1, 0.5, "nan"] * 2, lines, strict=False)]
    (tmp_path / name).write_text("".join(unlabelled))
    assert labels(classifier, tmp_path / name) == EXPECTED


def test_a_folder_of_parts_or_pictures_is_read_without_hidden_files(classifier, tmp_path, lines):
    for folder in ("parts", "scans"):
        (tmp_path / folder / ".ipynb_checkpoints").mkdir(parents=True)
        (tmp_path / folder / ".ipynb_checkpoints" / "part-00000").write_text("".join(lines))
        (tmp_path / folder / "_SUCCESS").write_text("")
    for number, text in enumerate((lines[:4], [], lines[4:])):
        (tmp_path / "parts" / f"part-0000{number}").write_text("".join(text))
    for number, image in enumerate(IMAGES):
        Image.fromarray(image[:, :, 0]).save(tmp_path / "scans" / f"{number}.png")
    assert labels(classifier, tmp_path / "parts", tmp_path / "scans") == EXPECTED * 2
    names = [prediction.origin for prediction in predict(classifier, [f"{tmp_path}/parts/"], digits=False)]
    assert names == [
        f"{tmp_path}/parts/part-0000{part}:{line}" for part, count in ((0, 4), (2, 5)) for line in range(1, count + 1)
    ]


def test_indices_start_where_the_model_says(classifier, tmp_path):
    zero_based = [f"0 {' '.join(f'{index}:{value}' for index, value in enumerate(image.ravel()))}\n" for image in IMAGES]
    (tmp_path / "a.txt").write_text("".join(zero_based))
    assert labels(classifier, tmp_path / "a.txt", zero_based=True) == EXPECTED
    with pytest.raises(
        DataError, match=r"a\.txt:1: index 0: indices in the model's training data start at 1; renumber this file"
    ):
        labels(classifier, tmp_path / "a.txt")
    info = classifier.info
    recorded = dataclasses.replace(info, reading=dataclasses.replace(info.reading, zero_based=True))
    unknown = dataclasses.replace(info, reading=None)
    assert [about.zero_based(setting) for about in (info, recorded, unknown) for setting in (False, True)] == [
        *(False, False),
        *(True, True),
        *(False, True),
    ]


def test_files_of_another_kind_are_refused_before_the_model_is_loaded(tmp_path, lines):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.txt").write_text("".join(lines))
    Image.new("L", (12, 12)).save(tmp_path / "both" / "a.png")
    for name, message in (
        ("a.parquet", "a.parquet: contains 1 of kind parquet; name pictures or libsvm text, or score it"),
        ("empty", "empty: contains no files with content"),
        ("both", "both: contains 1 of kind picture and 1 of kind libsvm"),
        ("nowhere", "nowhere: cannot be read .No such file"),
    ):
        with pytest.raises(DataError, match=message):
            find_inputs([str(tmp_path / name)])


def test_a_damaged_text_is_named_as_in_ingest(classifier, tmp_path, lines):
    (tmp_path / "a.txt").write_text("".join(lines), encoding="utf-16")
    with pytest.raises(DataError, match=r"a\.txt:1: the text is UTF-16"):
        labels(classifier, tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text(lines[0].replace("1:", "1:-"))
    with pytest.raises(DataError, match=r"b\.txt:1: value '-\d+' at index 1 is outside data\.value_range=\[0, 255\]"):
        labels(classifier, tmp_path / "b.txt")


def test_pictures_are_taken_as_training_took_them(classifier, tmp_path):
    enlarged = Image.fromarray(IMAGES[0, :, :, 0]).resize((24, 24), Image.Resampling.NEAREST)
    enlarged.save(tmp_path / "a.png")
    assert labels(classifier, tmp_path / "a.png") == EXPECTED[:1]
    with pytest.raises(DataError, match=r"a\.png: is 24 x 24, but the model was trained on pictures of 12 x 12 only"):
        labels(classifier, tmp_path / "a.png", resize=False)
    np.testing.assert_array_equal(np.asarray(enlarged)[::2, ::2], IMAGES[0, :, :, 0])
