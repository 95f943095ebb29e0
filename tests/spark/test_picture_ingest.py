"""Ingest of a folder of pictures."""

import collections

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.ingesting import ingest, rows_of
from support.reported import ReportedLines
from support.synthetic import images_and_labels, write_libsvm

from pipelines.errors import DataError

SHAPE = (32, 32, 3)
SETTINGS = ("data.image_shape=[32, 32, 3]", "data.classes=4")
NAMES = ("bus", "car", "tram", "van")


def write_pictures(folder, rows, seed, ending=".png", shape=SHAPE):
    images, labels = images_and_labels(rows, shape, seed=seed)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = folder / NAMES[label] / f"{number}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(file)
    return collections.Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "[my] vehicles"
    write_pictures(data / "train", 90, seed=1)
    write_pictures(data / "test", 30, seed=2)
    return data


def test_the_table_contains_the_pictures_and_the_names_of_their_folders(spark, folder, tmp_path):
    built, new = ingest(spark, folder, tmp_path / "tables", *SETTINGS)
    assert new
    assert built.manifest.class_names == NAMES
    assert built.manifest.spec.shape == SHAPE
    assert built.manifest.spec.dtype == "uint8"
    assert [built.manifest.rows(split) for split in ("train", "validation", "test")] == [81, 9, 30]
    expected = write_pictures(tmp_path / "again", 90, seed=1)
    assert collections.Counter(rows_of(built, "train") + rows_of(built, "validation")) == expected
    assert collections.Counter(rows_of(built, "test")) == write_pictures(tmp_path / "more", 30, seed=2)
    assert [source.rows for source in built.manifest.sources] == [90, 30]


def test_the_same_pictures_as_libsvm_text_are_the_same_rows(spark, tmp_path):
    write_pictures(tmp_path / "pictures", 40, seed=3)
    write_libsvm(tmp_path / "text.libsvm", 40, SHAPE, seed=3)
    of_pictures, of_text = (
        ingest(spark, tmp_path / name, tmp_path / "tables", *SETTINGS)[0] for name in ("pictures", "text.libsvm")
    )
    # 4 of 40 are drawn, from rows in a different order.
    assert of_pictures.manifest.rows("test") == of_text.manifest.rows("test") == 4
    everything = [
        collections.Counter(row for split in ("train", "validation", "test") for row in rows_of(table, split))
        for table in (of_pictures, of_text)
    ]
    assert everything[0] == everything[1]


def test_a_table_is_reused_until_a_picture_changes_content_or_class(spark, folder, tmp_path):
    assert ingest(spark, folder, tmp_path / "tables", *SETTINGS)[1]
    assert not ingest(spark, folder, tmp_path / "tables", *SETTINGS)[1]
    van = next((folder / "train" / "van").iterdir())
    Image.new("RGB", (32, 32), "red").save(van)
    assert ingest(spark, folder, tmp_path / "tables", *SETTINGS)[1]
    van.rename(folder / "train" / "bus" / "once-a-van.png")
    assert ingest(spark, folder, tmp_path / "tables", *SETTINGS)[1]


def test_grayscale_jpeg_and_any_value_range_are_accepted(spark, tmp_path):
    write_pictures(tmp_path / "data", 20, seed=1, ending=".JPG", shape=(8, 8, 1))
    built, _ = ingest(
        spark, tmp_path / "data", tmp_path / "tables", "data.image_shape=[8, 8, 1]", "data.value_range=[-1, 1]", "data.classes=4"
    )
    assert built.manifest.spec.dtype == "float32"
    values = np.frombuffer(b"".join(image for image, _ in rows_of(built, "train")), "<f4")
    assert -1 <= values.min() < -0.5
    assert 0.5 < values.max() <= 1


def test_an_invalid_picture_fails_ingest_by_name_or_is_set_aside(spark, folder, tmp_path):
    car = folder / "train" / "car"
    whole = next(car.iterdir()).read_bytes()
    (car / "x-cut.png").write_bytes(whole[: len(whole) // 2])
    (car / "y-text.png").write_text("GIF? no")
    Image.new("RGB", (20, 30)).save(car / "z-size.png")
    with pytest.raises(DataError, match=r"car/x-cut\.png: not an image that can be read .*; 3 of 93 rows are malf") as caught:
        ingest(spark, folder, tmp_path / "tables", *SETTINGS)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "tables").glob("*"))
    lines = ReportedLines()
    quarantine = ("ingest.on_bad_rows=quarantine", "ingest.max_bad_fraction=0.04")
    built, _ = ingest(spark, folder, tmp_path / "tables", *SETTINGS, *quarantine, reporter=lines)
    assert built.manifest.rejected_by_reason == {"not_a_picture": 2, "picture_of_wrong_size": 1}
    assert built.manifest.rows("train") + built.manifest.rows("validation") == 90
    assert any("set aside 3 of 93 pictures" in line for line in lines)
    kept = pq.read_table(f"{built.uri}/_rejected").to_pylist()
    assert [(row["file"], row["line"], row["raw"]) for row in kept] == [
        (str(file), None, file.read_bytes()) for file in sorted(car.glob("?-*.png"))
    ]
    size = kept[-1]["detail"]
    assert size == "is 30 x 20 where data.image_shape says 32 x 32; data.resize_pictures=true resizes all pictures"


def test_pictures_of_any_size_are_resized_with_the_setting(spark, folder, tmp_path):
    Image.new("RGB", (200, 100), "white").save(folder / "train" / "car" / "zz.png")
    built, _ = ingest(spark, folder, tmp_path / "tables", *SETTINGS, "data.resize_pictures=true")
    rows = rows_of(built, "train") + rows_of(built, "validation")
    assert len(rows) == 91
    assert (b"\xff" * 3072, 1) in rows
