"""The three passes of ingest without Spark: the tests partition, persist and shuffle in its place."""

import dataclasses
import os
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import DataConfig
from pipelines.data.formats import libsvm_compiled
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.ingest.build import _reading, index_hint
from pipelines.data.ingest.permutation import Permutation, plan_segments
from pipelines.data.ingest.shuffle_pass import Plan, parse_and_shuffle, shuffle_batches
from pipelines.data.ingest.write_pass import path_of, write_batches
from pipelines.data.sources import text_blocks, text_pass
from pipelines.data.sources.libsvm_files import LibsvmFiles, _needs_spark
from pipelines.data.sources.parsed_rows import BlockReport
from pipelines.data.sources.text_pass import parse_batches
from pipelines.data.table.row_hashes import hash_images
from pipelines.data.table.schema import DataSpec
from pipelines.errors import DataError
from pipelines.score.batch.libsvm_input import image_rows

ROWS = {0: 90, 1: 24}
RULES = Rules(shape=(2, 3, 1), value_range=(0.0, 255.0), labels=(3, 5, 7))


@pytest.fixture
def images():
    """Images of a training file and a test file, all different."""
    generator = np.random.default_rng(1)
    return {file: generator.integers(0, 256, (rows, 6), np.uint8) for file, rows in ROWS.items()}


def labels_of(file):
    return np.arange(ROWS[file]) % 3


def text_batches(images, lines_per_batch, fraction_in_line=-1):
    """Batches as from Spark: the lines of two blocks per file, the first with at most 40 lines."""
    for file, pixels in images.items():
        lines = [
            b"%d %s" % (RULES.labels[label], b" ".join(b"%d:%d" % (place + 1, value) for place, value in enumerate(row)))
            for label, row in zip(labels_of(file), pixels, strict=True)
        ]
        if file == 0 and fraction_in_line >= 0:
            lines[fraction_in_line] = lines[fraction_in_line].rpartition(b":")[0] + b":0.5"
        for block, some in ((0, lines[:40]), (4096, lines[40:])):
            for start in range(0, len(some), lines_per_batch):
                part = some[start : start + lines_per_batch]
                columns = [part, [file] * len(part), [block] * len(part)]
                types = (pa.binary(), pa.int32(), pa.int64())
                yield pa.RecordBatch.from_arrays(
                    [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)], list(text_pass.TEXT_COLUMNS)
                )


def parsed(images, lines_per_batch=17, images_apart=False, **more):
    """Batches of images, and the reports."""
    batches = list(parse_batches(text_batches(images, lines_per_batch, **more), RULES, False, images_apart))
    found = [batch for batch in batches if batch.column("content").null_count == 0]
    notes = [batch.column("note")[0].as_py() for batch in batches if batch.column("content").null_count]
    return found, [BlockReport.from_json(note) for note in notes]


def plan_of(reports, dtype="uint8"):
    rows = {(report.file, report.block): report.rows for report in reports}
    first_row = {(file, block): rows[file, 0] if block else 0 for file, block in rows}
    segments = plan_segments(
        train_rows=ROWS[0], test_rows=ROWS[1], validation_fraction=0.1, test_fraction=0, rows_per_row_group=25, bytes_per_row=6
    )
    return Plan(
        segments=segments,
        first_row=first_row,
        file_splits=("train", "test"),
        orders={"train": Permutation(ROWS[0], 7, "train"), "test": Permutation(ROWS[1], 7, "test")},
        spec=DataSpec(shape=(2, 3, 1), dtype=dtype, value_range=(0.0, 255.0)),
        num_classes=3,
    )


def shuffled(batches):
    """Rows grouped by file, as Spark does, in batches with arbitrary boundaries."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    np.random.default_rng(2).shuffle(rows)
    rows.sort(key=lambda row: (row["segment"], row["file"]))
    schema = batches[0].schema
    return [pa.RecordBatch.from_pylist(rows[start : start + 3], schema) for start in range(0, len(rows), 3)]


def written(folder, plan, placed):
    for segment in plan.segments:
        (folder / f"split={segment.split}").mkdir(parents=True)
    return [row for batch in write_batches(shuffled(placed), plan, str(folder)) for row in batch.to_pylist()]


def stored(folder, plan, split):
    segment = next(segment for segment in plan.segments if segment.split == split)
    tables = [pq.read_table(folder / path_of(split, number)).to_pydict() for number in range(segment.num_files)]
    return [row for table in tables for row in zip(table["image"], table["label"], strict=True)]


def split_of(plan, row):
    return plan.segments[row["segment"]].split


@pytest.mark.parametrize("lines_per_batch", [1, 17, 1000])
@pytest.mark.parametrize("values_per_row", [6, 40, 2**20])
def test_every_row_gets_its_position_with_any_partitioning(tmp_path, monkeypatch, images, lines_per_batch, values_per_row):
    monkeypatch.setattr("pipelines.data.sources.parsed_rows.VALUES_PER_SPARK_ROW", values_per_row)
    monkeypatch.setattr("pipelines.data.ingest.shuffle_pass.VALUES_PER_SPARK_ROW", values_per_row)
    monkeypatch.setattr("pipelines.data.ingest.shuffle_pass._BYTES_AT_ONCE", 200)
    parsed_rows, reports = parsed(images, lines_per_batch)
    assert max(len(content) for batch in parsed_rows for content in batch.column("content").to_pylist()) <= values_per_row
    plan = plan_of(reports)
    placed = list(shuffle_batches(parsed_rows, plan))
    assert max(len(content) for batch in placed for content in batch.column("inputs").to_pylist()) <= values_per_row
    files = written(tmp_path, plan, placed)

    assert len(files) == sum(segment.num_files for segment in plan.segments)
    assert np.sum([file["rows_per_label"] for file in files], axis=0).tolist() == [38, 38, 38]
    for file, order, splits in ((0, plan.orders["train"], ("validation", "train")), (1, plan.orders["test"], ("test",))):
        hashes = np.frombuffer(b"".join(row["image_hashes"] for row in files if split_of(plan, row) in splits), "<u8")
        assert sorted(hashes) == sorted(hash_images(images[file]))
        in_order = np.argsort(order(np.arange(ROWS[file])))
        expected = [(images[file][row].tobytes(), labels_of(file)[row]) for row in in_order]
        assert [row for split in splits for row in stored(tmp_path, plan, split)] == expected


def test_integers_in_a_float_table_are_stored_as_floats(tmp_path, images):
    parsed_rows, reports = parsed(images, lines_per_batch=10, fraction_in_line=3)
    assert [report.is_float for report in reports] == [True, False, False]
    plan = plan_of(reports, "float32")
    written(tmp_path, plan, list(shuffle_batches(parsed_rows, plan)))
    found = {
        np.frombuffer(image, "<f4").tobytes() for split in ("train", "validation") for image, _ in stored(tmp_path, plan, split)
    }
    expected = images[0].astype("<f4")
    expected[3, 5] = 0.5
    assert found == {row.tobytes() for row in expected}


@pytest.mark.parametrize("block_bytes", [10, 100, 10**6])
def test_files_that_spark_cannot_open_are_read_as_it_reads_the_others(tmp_path, images, monkeypatch, block_bytes):
    lines = [b"%d %s" % (3, b" ".join(b"%d:%d" % (k + 1, v) for k, v in enumerate(row))) for row in images[0]]
    path = tmp_path / "a:b.txt"
    path.write_bytes(b"# a comment\n" + b"\n".join(lines) + b"\n9 1:1")
    size = path.stat().st_size
    blocks = pa.RecordBatch.from_pylist(
        [{"path": str(path), "file": 4, "start": start, "stop": start + block_bytes} for start in range(0, size, block_bytes)]
    )
    batches = list(text_blocks.read_blocks([blocks], RULES, False, True))
    content = [row for batch in batches for row in batch.column("content").to_pylist() if row is not None]
    reports = [BlockReport.from_json(batch.column("note")[0].as_py()) for batch in batches if batch.column("content").null_count]
    assert content == [row.tobytes() for row in images[0]]
    assert [report.block for report in reports] == list(range(0, size, block_bytes))
    assert sum(report.lines for report in reports) == len(lines) + 2
    (bad,) = [report for report in reports if report.bad]
    assert sum(report.lines for report in reports if report.block < bad.block) + bad.first_bad_line == len(lines) + 1


def test_blocks_are_counted_first_and_then_parsed_and_shuffled_at_once(tmp_path, images):
    blocks = []
    for file, pixels in images.items():
        lines = [
            b"%d %s" % (RULES.labels[label], b" ".join(b"%d:%d" % (place + 1, value) for place, value in enumerate(row)))
            for label, row in zip(labels_of(file), pixels, strict=True)
        ]
        path = tmp_path / f"{file}.txt"
        path.write_bytes(b"\n".join([*lines, b"bad", b""]))
        for start, stop in ((0, 300), (300, -1)):
            blocks.append({"path": str(path), "file": file, "start": start, "stop": stop})
    batches = [pa.RecordBatch.from_pylist(blocks)]
    parse = partial(text_blocks.read_blocks, rules=RULES, images_apart=False)
    counted = list(parse(batches, keep_bad_lines=False, keep_rows=False))
    assert all(batch.column("content").null_count == len(batch) for batch in counted)
    reports = [BlockReport.from_json(batch.column("note")[0].as_py()) for batch in counted]
    kept = [batch for batch in parse(batches, keep_bad_lines=True, keep_rows=False) if not batch.column("content").null_count]
    assert [batch.column("content").to_pylist() for batch in kept] == [[b"bad"]] * len(ROWS)
    plan = plan_of(reports)
    written(tmp_path / "table", plan, list(parse_and_shuffle(batches, parse, plan)))
    expected, reports = parsed(images)
    other = plan_of(reports)
    written(tmp_path / "other", other, list(shuffle_batches(expected, other)))
    for split in ("train", "validation", "test"):
        assert stored(tmp_path / "table", plan, split) == stored(tmp_path / "other", other, split)


def test_a_file_that_has_gone_since_it_was_checked_is_named(tmp_path):
    source = LibsvmFiles("digits", ((str(tmp_path / "a.txt"), "train"),))
    with pytest.raises(DataError, match=r"a\.txt: cannot be read \(No such file"), _reading(source):
        source.blocks(None, DataConfig(image_shape=(2, 3, 1)))


def test_only_text_that_python_may_read_alone_is_read_in_blocks(tmp_path, monkeypatch):
    (tmp_path / ".c.txt.crc").touch()
    names = ("a.txt", "b.txt.bz2", "b.txt.gz", "c.txt", "part-00000", ".hidden")
    assert [name for name in names if _needs_spark(tmp_path / name)] == ["b.txt.bz2", "b.txt.gz", "c.txt"]
    source = LibsvmFiles("digits", ((str(tmp_path / "a.txt"), "train"),))
    monkeypatch.setattr(libsvm_compiled, "is_installed", lambda: False)
    assert source.blocks(None, DataConfig(image_shape=(2, 3, 1))) is None


@pytest.mark.parametrize(("zero_based", "index"), [(False, "6, the last; if indices start at 0, set data"), (True, "0; if ind")])
def test_a_file_that_may_count_from_0_or_1_is_pointed_out(zero_based, index):
    config = DataConfig(image_shape=(2, 3, 1), zero_based=zero_based)
    source = LibsvmFiles("digits", (("a.txt", "train"), ("b.txt", "test")))
    no_proof = "uses_last_index" if zero_based else "uses_first_index"
    reports = [BlockReport(0, 0), BlockReport(0, 9), BlockReport(1, 0, **{no_proof: True})]
    assert index_hint(config, source, reports).startswith(f"a.txt and b.txt: no row uses index {index}")
    # One row of either file shows it.
    for number in range(3):
        shown = dataclasses.replace(reports[number], uses_last_index=True, uses_first_index=True)
        assert index_hint(config, source, [*reports[:number], shown, *reports[number + 1 :]]) == ""
    # MNIST's corners are empty, and its indices known.
    published = (("/elsewhere/mnist-digits-train.txt.bz2", "train"), ("/elsewhere/mnist-digits-test.txt.bz2", "test"))
    assert index_hint(config, LibsvmFiles("mnist", source.files), reports) == ""
    assert index_hint(config, LibsvmFiles("data-001", published), reports) == ""
    assert index_hint(config, LibsvmFiles("digits", (published[0], source.files[1])), reports) != ""


def test_a_file_is_one_row_group_as_reported(tmp_path, images):
    parsed_rows, reports = parsed(images)
    plan = plan_of(reports)
    for row in written(tmp_path, plan, list(shuffle_batches(parsed_rows, plan))):
        segment = plan.segments[row["segment"]]
        path = tmp_path / path_of(segment.split, row["file"])
        metadata = pq.ParquetFile(path).metadata
        assert (metadata.num_row_groups, metadata.num_rows) == (1, segment.rows_of_file(row["file"]))
        assert metadata.row_group(0).column(0).compression == "ZSTD"
        assert (row["num_bytes"], sum(row["rows_per_label"])) == (path.stat().st_size, metadata.num_rows)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".parquet"}


def test_missing_or_duplicate_rows_are_an_error(tmp_path, monkeypatch, images):
    # Several Spark rows per file: `pipelines.data.ingest.publish.summarize` detects a file without any.
    monkeypatch.setattr("pipelines.data.ingest.shuffle_pass._BYTES_AT_ONCE", 100)
    parsed_rows, reports = parsed(images)
    plan = plan_of(reports)
    placed = list(shuffle_batches(parsed_rows, plan))
    with pytest.raises(ValueError, match=r"split=\w+/part-0000\d\.parquet: \d+ of its \d+ rows are missing or duplicated"):
        written(tmp_path / "twice", plan, [*placed, *placed])
    with pytest.raises(ValueError, match="rows are missing or duplicated"):
        written(tmp_path / "missing", plan, placed[1:])


def test_a_task_that_outlives_its_job_creates_no_folder_and_leaves_no_file(tmp_path, images, monkeypatch):
    parsed_rows, reports = parsed(images)
    plan = plan_of(reports)
    placed = shuffled(list(shuffle_batches(parsed_rows, plan)))
    with pytest.raises(FileNotFoundError):
        list(write_batches(placed, plan, str(tmp_path / "gone")))
    assert list(tmp_path.iterdir()) == []

    def full(*_):
        raise OSError(28, "No space left on device")

    for segment in plan.segments:
        (tmp_path / f"split={segment.split}").mkdir()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        list(write_batches(placed, plan, str(tmp_path)))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_rows_to_score_carry_their_file_and_line(images):
    apart, reports = parsed(images, images_apart=True)
    assert {len(content) for batch in apart for content in batch.column("content").to_pylist()} == {6}
    first_lines = {(report.file, report.block): 40 if report.block else 0 for report in reports}
    rows = [row for batch in image_rows(apart, ("a.txt", "b.txt"), first_lines, RULES.labels) for row in batch.to_pylist()]
    assert [(row["file"], row["line"]) for row in rows] == [
        (name, line) for name, count in (("a.txt", ROWS[0]), ("b.txt", ROWS[1])) for line in range(1, count + 1)
    ]
    assert [row["content"] for row in rows] == [image.tobytes() for file in ROWS for image in images[file]]
    assert [row["label"] for row in rows] == [RULES.labels[label] for file in ROWS for label in labels_of(file)]


def test_a_lost_connection_is_not_reported_as_a_file_that_cannot_be_read():
    source = LibsvmFiles("digits", (("a.txt", "train"),))
    with pytest.raises(ConnectionRefusedError), _reading(source):
        raise ConnectionRefusedError(111, "Connection refused")
