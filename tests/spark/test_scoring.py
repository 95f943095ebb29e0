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
from pipelines.data.ingest.spark_jobs import job_group
from pipelines.errors import ConfigError, ConvoyError, DataError
from pipelines.score import model_info
from pipelines.score.batch.scoring import RejectedRow, Tally, total
from pipelines.score.batch.scoring_run import ScoringRequest, check, run_scoring
from pipelines.score.spark_model import packed_models

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
        "pictures": pa.array(pictures, pa.binary()),
    }
    for kind, column in kinds.items():
        pq.write_table(pa.table({"id": pa.array(range(24)), "pixels": column}), tmp_path / f"{kind}.parquet")
        _, lines = score(spark, info, tmp_path / f"{kind}.parquet", tmp_path / kind, image_column="pixels")
        assert f"column pixels holds {HELD[kind]}" in lines
        table = written(tmp_path / kind).sort_values("id")
        assert list(table)[:2] == ["id", "pixels"]
        expect(table, images)


HELD = {
    "lists": "lists of numbers",
    "floats": "raw values",
    "struct": "encoded pictures (PNG, JPEG, ...)",
    "pictures": "encoded pictures (PNG, JPEG, ...)",
}


def parquet(path, rows, **columns):
    """Write black images, with other columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.array([bytes(144)] * rows, pa.binary())
    pq.write_table(pa.table({"image": image} | {name: pa.array(column) for name, column in columns.items()}), path)


def test_of_a_folder_of_parquet_every_file_and_every_column_is_kept(spark, info, tmp_path):
    parquet(tmp_path / "in/a.parquet", 3, id=[1, 2, 3])
    parquet(tmp_path / "in/x/b.parquet", 2, id=[4, 5], late=["f", "g"])
    parquet(tmp_path / "in/x/y/c.parquet", 1, **{"a`b": [0.5], "a.b": [6]})
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "in/empty.parquet")
    summary, _ = score(spark, info, tmp_path / "in", tmp_path / "out")
    assert summary["rows"] == 6
    table = written(tmp_path / "out").sort_values(["id", "a.b"])
    assert list(table)[:5] == ["image", "id", "late", "a`b", "a.b"]
    assert table["id"].tolist()[:5] == [1, 2, 3, 4, 5]
    assert [None if value != value else value for value in table["late"]] == [None, None, None, "f", "g", None]
    assert (table["a`b"].tolist()[5], table["a.b"].tolist()[5]) == (0.5, 6)


def test_partitions_keep_their_text(spark, info, tmp_path):
    parquet(tmp_path / "in/id=007/day=2026-01-02/a.parquet", 3)
    parquet(tmp_path / "in/id=7/day=1e3/a.parquet", 2)
    parquet(tmp_path / "in/id=a%2Fb/day=__HIVE_DEFAULT_PARTITION__/a.parquet", 1)
    inferred = spark.conf.get("spark.sql.sources.partitionColumnTypeInference.enabled")
    score(spark, info, tmp_path / "in", tmp_path / "out")
    rows = written(tmp_path / "out")[["id", "day"]].value_counts(dropna=False).to_dict()
    assert {tuple(None if value != value else value for value in key): count for key, count in rows.items()} == {
        ("007", "2026-01-02"): 3,
        ("7", "1e3"): 2,
        ("a/b", None): 1,
    }
    assert spark.conf.get("spark.sql.sources.partitionColumnTypeInference.enabled") == inferred


def test_a_struct_whose_name_has_a_dot_holds_the_images(spark, info, tmp_path):
    Image.new("L", (12, 12)).save(tmp_path / "a.png")
    column = pa.array([{"bytes": (tmp_path / "a.png").read_bytes()}] * 2, pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"img.raw": column, "img": [{"raw": {"bytes": b"x"}}] * 2}), tmp_path / "a.parquet")
    summary, _ = score(spark, info, tmp_path / "a.parquet", tmp_path / "out", image_column="img.raw")
    assert summary["rows"] == 2


def test_a_row_without_an_image_is_named_by_its_file_and_number(spark, info, tmp_path):
    parquet(tmp_path / "in/a%41+b c.parquet", 3)
    pq.write_table(pa.table({"image": pa.array([bytes(144), None], pa.binary())}), tmp_path / "in/ü#.parquet")
    with pytest.raises(DataError, match=f"^{tmp_path}/in/ü#.parquet: row 1: no image"):
        score(spark, info, tmp_path / "in", tmp_path / "out")


def stale_checksum(folder):
    parquet(folder / "a.parquet", 3)
    # crc, version 0, 512 bytes a sum: the sums of another file.
    (folder / ".a.parquet.crc").write_bytes(b"crc\0\0\0\2\0" + bytes(4 * 20))


UNREADABLE = {
    "image and Image": (lambda folder: parquet(folder / "a.parquet", 1, Image=[1]), "rename or drop one of the columns"),
    "nanoseconds": (
        lambda folder: parquet(folder / "a.parquet", 1, t=pa.array([1], pa.timestamp("ns"))),
        "write the timestamps in microseconds, which Spark can read",
    ),
    "two types": (
        lambda folder: (parquet(folder / "a.parquet", 1, x=[1]), parquet(folder / "b.parquet", 1, x=["b"])),
        "write the column with one type in all files",
    ),
    "no Parquet": (lambda folder: (folder / "a.parquet").write_bytes(b"nothing"), r"a\.parquet"),
    "damaged": (
        lambda folder: (
            parquet(folder / "a.parquet", 1),
            (folder / "a.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-9]),
        ),
        r"a\.parquet",
    ),
    "a stale checksum": (stale_checksum, r"or delete its checksum file .*/\.a\.parquet\.crc if it was changed on purpose"),
    "_metadata": (lambda folder: parquet(folder / "a.parquet", 1, _metadata=[1]), "has a column '_metadata', .*; rename or drop"),
    "__Origin": (lambda folder: parquet(folder / "a.parquet", 1, __Origin=[1]), "has a column '__Origin', .*; rename or drop"),
    "Prediction": (lambda folder: parquet(folder / "a.parquet", 1, Prediction=[1]), "already has a column 'Prediction'"),
    "no such column": (lambda folder: pq.write_table(pa.table({"x": [1]}), folder / "a.parquet"), "has no such column; it has x"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_scored_is_one_line_and_leaves_nothing(spark, info, tmp_path, case):
    prepare, message = UNREADABLE[case]
    (tmp_path / "in").mkdir()
    prepare(tmp_path / "in")
    with pytest.raises(ConvoyError, match=message) as failure:
        score(spark, info, tmp_path / "in", tmp_path / "out")
    assert len(str(failure.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_unlabelled_lines_are_scored_and_large_labels_kept(spark, info, tmp_path):
    large = dataclasses.replace(info, labels=(3_000_000_000, 1, 4_006_381_333_931, -3))
    images, labels = images_and_labels(30, seed=4)
    write_libsvm(tmp_path / "a.txt", 30, seed=4)
    text = (tmp_path / "a.txt").read_text().splitlines()
    known = ["0.5", "nan", *(str(large.labels[label]) for label in labels[2:])]
    (tmp_path / "parts").mkdir()
    for number, rows in enumerate((slice(0, 11), slice(11, 30))):
        lines = [f"{label} {line.partition(' ')[2]}" for label, line in zip(known[rows], text[rows], strict=True)]
        (tmp_path / "parts" / f"part-0000{number}").write_text("\n".join(lines) + "\n")
        (tmp_path / "parts" / f".part-0000{number}.crc").write_bytes(b"crc")
    (tmp_path / "parts" / "_SUCCESS").write_text("")
    score(spark, large, tmp_path / "parts", tmp_path / "out")
    table = pq.read_table(tmp_path / "out", partitioning=None).sort_by([("file", "ascending"), ("line", "ascending")]).to_pylist()
    assert [row["label"] for row in table] == [None, None, *(large.labels[label] for label in labels[2:])]
    best = bandmodels.BandModel().predict(None, images).argmax(1)
    assert [row["predicted_label"] for row in table] == [large.labels[label] for label in best]


def test_indices_are_read_as_in_the_training_data(spark, info, tmp_path):
    images, _ = images_and_labels(20, seed=4)
    zero_based = dataclasses.replace(info, reading=dataclasses.replace(info.reading, zero_based=True))
    lines = [" ".join(["1", *(f"{index}:{value}" for index, value in enumerate(image))]) for image in images.reshape(20, -1)]
    (tmp_path / "a.scale").write_text("\n".join(lines) + "\n")
    score(spark, zero_based, tmp_path / "a.scale", tmp_path / "out")
    expect(written(tmp_path / "out").sort_values("line"), images)
    with pytest.raises(DataError, match=r"a\.scale:1: index 0: indices in the model's training data start at 1; renum"):
        score(spark, info, tmp_path / "a.scale", tmp_path / "other", "data.zero_based=true")


def test_values_on_which_the_model_was_not_trained_end_the_job_or_are_set_aside(spark, info, tmp_path):
    images, _ = images_and_labels(24, seed=5)
    rows = images.reshape(24, -1).astype(np.float64)
    rows[3, 7], rows[5, 0] = np.nan, 300
    pq.write_table(pa.table({"image": pa.array(rows.tolist())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: row 3: the value at \[0, 7, 0\] is missing or not finite; 2 of 24"):
        score(spark, info, tmp_path / "a.parquet", tmp_path / "out")
    settings = ("ingest.on_bad_rows=quarantine", "ingest.max_bad_fraction=0.1")
    summary, _ = score(spark, info, tmp_path / "a.parquet", tmp_path / "out", *settings)
    assert (summary["rows"], summary["rejected_rows"]) == (22, 2)
    expect(written(tmp_path / "out"), np.delete(images, [3, 5], axis=0))


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


def test_work_that_fails_before_its_first_task_leaves_the_session_as_it_was(spark, info):
    context = spark.sparkContext
    properties = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")
    context.setJobGroup("cell", "a cell of a notebook", interruptOnCancel=True)
    try:
        packed_models(spark, [info])
        with pytest.raises(ConfigError), job_group(spark, "Convoy scoring"):
            raise ConfigError("refused before a task has fetched the model")
        assert [context.getLocalProperty(name) for name in properties] == ["cell", "a cell of a notebook", "true"]
        # Each task first fetches all files of the application.
        assert spark.range(10).repartition(2).count() == 10
    finally:
        for name in properties:
            context.setLocalProperty(name, None)
