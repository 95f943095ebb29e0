"""Batch scoring of every kind of input in Spark's workers, with a model that needs no TensorFlow."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import bandmodels
from support.reported import ReportedLines
from support.synthetic import images_and_labels, write_libsvm, write_table

from pipelines.config import loader
from pipelines.errors import ConfigError, DataError
from pipelines.score import model_info
from pipelines.score.batch.scoring import RejectedRow, Tally, total
from pipelines.score.batch.scoring_run import ScoringRequest, check, run_scoring

CLASSES = ["zero", "one", "two", "three"]


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    folder = bandmodels.save(tmp_path_factory.mktemp("models") / "good")
    return dataclasses.replace(model_info.read(folder, "models:/bands/7"), version="7")


def score(spark, info, location, output, *settings, **options):
    config = loader.load(None, [f"data.dataset={json.dumps(str(location))}", *settings])
    request = ScoringRequest(
        config=config, info=info, output=str(output), **({"image_column": "image", "digits": False, "overwrite": False} | options)
    )
    lines = ReportedLines()
    return run_scoring(spark, request, check(request), lines), lines


def written(output):
    """The output as any Parquet reader sees it, without hidden files."""
    return pq.read_table(output, partitioning=None).to_pandas()


def expect(table, images):
    """Asserts that predictions and probabilities are the model's."""
    expected = bandmodels.BandModel().predict(None, images)
    np.testing.assert_allclose(np.array([[row[name] for name in CLASSES] for row in table["probabilities"]]), expected, rtol=1e-5)
    assert list(table["prediction"]) == [CLASSES[best] for best in expected.argmax(1)]
    assert list(table["predicted_label"]) == list(expected.argmax(1))
    assert set(table["model_uri"]) == {"models:/bands/7"}
    assert set(table["model_version"]) == {"7"}


def test_a_table_keeps_its_columns_and_every_row_gets_a_prediction(spark, info, tmp_path):
    write_table(tmp_path / "t", {"train": 70, "test": 35})
    summary, _ = score(spark, info, tmp_path / "t", tmp_path / "out")
    table = written(tmp_path / "out")
    assert list(table)[:3] == ["image", "label", "split"]
    assert dict(table["split"].value_counts()) == {"train": 70, "test": 35}
    expect(table, np.stack([np.frombuffer(image, np.uint8) for image in table["image"]]))
    assert (summary["rows"], summary["rejected_rows"], summary["kind"]) == (105, 0, "table")
    assert json.loads((tmp_path / "out" / "_scoring.json").read_text())["model_uri"] == "models:/bands/7"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_partition_that_spark_has_run_twice_counts_once(tmp_path):
    content = {
        "rows": 3,
        "predict_seconds": 0.5,
        "load_seconds": 0.0,
        "rejected": [{"origin": "a", "row": 7, "reason": "is odd"}],
    }
    for name in ("0-10", "0-12", "1-11", ".1-13.unfinished"):
        (tmp_path / name).write_text(json.dumps(content))
    assert total(tmp_path) == Tally(6, 1.0, 0.0, (RejectedRow("a", 7, "is odd"),) * 2)


def test_libsvm_lines_keep_file_line_and_label(spark, info, tmp_path):
    images, labels = images_and_labels(60, seed=4)
    (tmp_path / "in").mkdir()
    write_libsvm(tmp_path / "in" / "a.txt", 60, seed=4)
    text = (tmp_path / "in" / "a.txt").read_text().splitlines()
    (tmp_path / "in" / "a.txt").write_text("\n".join(["# a comment", "", *text]) + "\n")
    score(spark, info, tmp_path / "in", tmp_path / "out")
    table = written(tmp_path / "out").sort_values("line")
    assert list(table["line"]) == list(range(3, 63))
    assert list(table["label"]) == list(labels)
    assert set(table["file"]) == {f"{tmp_path / 'in'}/a.txt"}
    expect(table, images)


def test_a_bad_line_fails_the_job_or_is_quarantined_as_in_ingest(spark, info, tmp_path):
    write_libsvm(tmp_path / "a.txt", 40, seed=4)
    with (tmp_path / "a.txt").open("a") as file:
        file.write("1 200:3\n")
    with pytest.raises(DataError, match=r"a\.txt:41: index 200 is above 144"):
        score(spark, info, tmp_path / "a.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    quarantine = ("ingest.on_bad_rows=quarantine", "ingest.max_bad_fraction=0.05")
    summary, lines = score(spark, info, tmp_path / "a.txt", tmp_path / "out", *quarantine)
    assert (summary["rows"], summary["rejected_rows"]) == (40, 1)
    assert any("a.txt:41:" in line for line in lines)
    rejected = pq.read_table(tmp_path / "out" / "_rejected").to_pylist()
    assert [(row["line"], row["raw"]) for row in rejected] == [(41, b"1 200:3")]
    assert len(written(tmp_path / "out")) == 40


def test_foreign_parquet_may_hold_lists_encoded_images_or_raw_values(spark, info, tmp_path):
    images, _ = images_and_labels(24, seed=5)
    pictures = []
    for number, image in enumerate(images):
        Image.fromarray(image[:, :, 0]).save(tmp_path / f"{number}.png")
        pictures.append((tmp_path / f"{number}.png").read_bytes())
    kinds = {
        "lists": pa.array([image.ravel().astype(np.float64).tolist() for image in images]),
        "floats": pa.array([image.astype("<f4").tobytes() for image in images], pa.binary()),
        "struct": pa.array([{"bytes": picture, "path": "x.png"} for picture in pictures]),
        "mixed": pa.array([image.tobytes() if row % 2 else pictures[row] for row, image in enumerate(images)], pa.binary()),
    }
    for kind, column in kinds.items():
        pq.write_table(pa.table({"id": pa.array(range(24)), "pixels": column}), tmp_path / f"{kind}.parquet")
        score(spark, info, tmp_path / f"{kind}.parquet", tmp_path / kind, image_column="pixels")
        table = written(tmp_path / kind).sort_values("id")
        assert list(table)[:2] == ["id", "pixels"]
        expect(table, images)


def test_a_folder_of_images_with_one_broken_file(spark, info, tmp_path):
    images, _ = images_and_labels(12, seed=6)
    folder = tmp_path / "my pictures" / "deeper [1]"
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image[:, :, 0]).save(folder / f"{number:02d}.png")
    (folder / "07.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"07\.png: not an image that can be read .*on_bad_rows=quarantine"):
        score(spark, info, tmp_path / "my pictures", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"more than ingest\.max_bad_fraction=0\.01 allows"):
        score(spark, info, tmp_path / "my pictures", tmp_path / "out", "ingest.on_bad_rows=quarantine")
    summary, lines = score(
        spark, info, tmp_path / "my pictures", tmp_path / "out", "ingest.on_bad_rows=quarantine", "ingest.max_bad_fraction=0.1"
    )
    assert (summary["rows"], summary["rejected_rows"]) == (11, 1)
    assert "1 of 12 rows are set aside" in lines[-1]
    table = written(tmp_path / "out").sort_values("path")
    assert list(table["path"]) == [str(folder / f"{number:02d}.png") for number in range(12) if number != 7]
    expect(table, np.delete(images, 7, axis=0))
    (rejected,) = pq.read_table(tmp_path / "out" / "_rejected").to_pylist()
    assert rejected["file"].endswith("07.png")


def test_unusable_inputs_and_outputs_are_refused_before_spark_starts(info, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.png").write_bytes(b"")
    (tmp_path / "both" / "a.txt").write_text("")
    (tmp_path / "out").mkdir()
    write_libsvm(tmp_path / "a.txt", 4)
    for location, output, message in (
        (tmp_path / "nowhere", "new", "no such file or folder"),
        (tmp_path / "both", "new", "contains 1 of kind images and 1 of kind libsvm; it must contain files of one kind"),
        (tmp_path / "a.txt", tmp_path / "out", "already exists; name another folder, or give --overwrite"),
    ):
        with pytest.raises(ConfigError, match=message):
            score(None, info, location, output)
    with pytest.raises(ConfigError, match="was not written by scoring; name another folder"):
        score(None, info, tmp_path / "a.txt", tmp_path / "out", overwrite=True)


def test_an_output_is_replaced_only_by_a_complete_one(spark, info, tmp_path):
    write_table(tmp_path / "t", {"test": 9})
    score(spark, info, tmp_path / "t", tmp_path / "out")
    pq.write_table(pa.table({"prediction": [1], "image": [b""]}), tmp_path / "taken.parquet")
    with pytest.raises(ConfigError, match="already has a column 'prediction'"):
        score(spark, info, tmp_path / "taken.parquet", tmp_path / "out", overwrite=True)
    with pytest.raises(ConfigError, match="has no such column; it has prediction, image"):
        score(spark, info, tmp_path / "taken.parquet", tmp_path / "out", overwrite=True, image_column="pixels")
    assert len(written(tmp_path / "out")) == 9
    write_table(tmp_path / "t2", {"test": 5})
    score(spark, info, tmp_path / "t2", tmp_path / "out", overwrite=True)
    assert len(written(tmp_path / "out")) == 5
