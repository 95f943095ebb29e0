"""Names that Spark and Hadoop take for something else: each file is read and written as it is named, or refused in one line."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import bandmodels, hostile
from support.reported import ReportedLines

from pipelines.config import DataConfig, loader
from pipelines.data.sources import image_pass
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.sources.parsed_rows import IS_IMAGES
from pipelines.score import model_info
from pipelines.score.batch import inputs, picture_files
from pipelines.score.batch.scoring_run import ScoringRequest, check, run_scoring

pytestmark = pytest.mark.timeout(200)
# What the names of `hostile` match as patterns, or are when they are decoded.
DECOYS = ("a1", "ax", "ay", "axb", "ab", "aAb", "a", "Zu", "O", "$", "/root")
GLOBS = ("a[1]", "a{x}", "a{x,y}", "a*b", "a?b", "a\\b", "a%41b", "a b ", "7")


def test_text_is_read_from_the_file_that_is_named(spark, tmp_path):
    for name in DECOYS:
        (tmp_path / name.lstrip("/")).write_text("not a row\n")
    # Each file is a part of Spark's plan of its own.
    names = (
        *GLOBS,
        "_a",
        ".a",
        "a:b",
        "s3:b",
        "--help",
        "O'Brien",
        'a"b',
        "$HOME",
        "a#b",
        "a,b",
        " a",
        "~root",
        "Zu\u0308rich",
        "日本",
    )
    for number, name in enumerate(names):
        (tmp_path / name).write_text(f"1 1:{number}\n")
    source = LibsvmFiles("names", tuple((f"{tmp_path}/{name}", "train") for name in names))
    data = DataConfig(image_shape=(1, 2, 1), classes=2)
    rows = (
        source.parsed(spark, data, keep_bad_rows=True, images_apart=True).where("note is null or content is not null").collect()
    )
    assert sorted((row.file, row.content) for row in rows) == [(n, bytes([n, 0])) for n in range(len(names))]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of one pixel, whose value is that of the name in the list."""
    folder = tmp_path_factory.mktemp("pictures")
    names = [f"{name}.png".encode() for name in hostile.NAMES if not name.startswith((".", "_"))] + [
        b"Z\xfcrich.png",
        b"a\nb.png",
    ]
    for number, name in enumerate(names):
        Image.new("L", (1, 1), number).save(folder / os.fsdecode(name), "PNG")
    return folder, [os.fsdecode(name) for name in names]


def test_pictures_of_any_name_are_scored(spark, pictures):
    folder, names = pictures
    rows = picture_files.frame(spark, [folder / name for name in names]).collect()
    found = {row.path: row for row in rows}
    assert set(found) == {f"{folder}/{name}" for name in names[:-2]} | {rf"{folder}/Z\xfcrich.png", rf"{folder}/a\nb.png"}
    for name in names[:-2]:
        row = found[f"{folder}/{name}"]
        assert bytes(row.content) == (folder / name).read_bytes()
        assert row.length == len(row.content)
        assert row.modificationTime.timestamp() == pytest.approx((folder / name).stat().st_mtime, abs=1e-3)


def test_pictures_of_any_name_are_ingested(spark, pictures):
    folder, names = pictures
    listed = [(folder, [(name, 0) for name in names])]
    data = DataConfig(image_shape=(1, 1, 1), classes=2)
    rules = image_pass.PictureRules.from_config(data, as_digits=False)
    rows = image_pass.parsed(spark, listed, rules, True, True).where(IS_IMAGES).orderBy("block", "number").collect()
    assert [row.content[0] for row in rows] == list(range(len(names)))


@pytest.mark.parametrize("name", GLOBS)
def test_parquet_is_read_from_the_folder_that_is_named(spark, tmp_path, name):
    for number, each in enumerate((name, *(decoy for decoy in DECOYS if decoy not in (name, "/root")))):
        (tmp_path / each).mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": pa.array([bytes([number])], pa.binary())}), tmp_path / each / "a.parquet")
    rows = inputs.read_parquet(spark, f"{tmp_path}/{name}", ["image"])
    assert [tuple(row) for row in rows.frame.select("image", rows.origin).collect()] == [(b"\0", f"{tmp_path / name}/a.parquet")]


def test_parquet_files_of_any_name_are_scored_from_and_to_folders_of_any_name(spark, tmp_path):
    info = model_info.read(bandmodels.save(tmp_path / "model"), "models:/bands/7")
    folder = tmp_path.joinpath("in", *hostile.HOME, "a#b;c?d%41")
    folder.mkdir(parents=True)
    names = [name for name in hostile.NAMES if not name.startswith((".", "_")) and ":" not in name]
    for name in names:
        image = pa.array([bytes(bandmodels.SHAPE[0] * bandmodels.SHAPE[1])], pa.binary())
        pq.write_table(pa.table({"image": image, "name": [name]}), folder / f"{name}.parquet")
    config = loader.load(None, [f"data.dataset={folder}"])
    output = tmp_path.joinpath("out", *hostile.HOME, "a#b;c?d%41")
    request = ScoringRequest(config=config, info=info, output=str(output), image_column="image", digits=False, overwrite=False)
    summary = run_scoring(spark, request, check(request), ReportedLines())
    assert summary["rows"] == len(names)
    assert sorted(pq.read_table(output, partitioning=None)["name"].to_pylist()) == sorted(names)
