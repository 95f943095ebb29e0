"""Malformed lines in a complete ingest."""

import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import mutations
from support.ingesting import ingest, rows_of
from support.reported import ReportedLines
from support.synthetic import write_libsvm

from pipelines.data.table.schema import REJECTED_FOLDER
from pipelines.errors import DataError

QUARANTINE = "ingest.on_bad_rows=quarantine"
BAD = {
    "x 5:1": "label_not_a_number",
    "nan 5:1": "label_not_finite",
    "1.5 5:1": "label_not_whole",
    "4 5:1": "label_unknown",
    "1 5:1 7": "colon_missing",
    "1 qid:3 5:1": "query_id",
    "1 a:1": "index_not_a_number",
    "1 0:9 5:1": "index_zero",
    "1 145:1": "index_too_large",
    "1 5:1 5:2": "index_repeated",
    "1 5:1 4:2": "index_descending",
    "1 5:x": "value_not_a_number",
    "1 5:inf": "value_not_finite",
    "1 5:256": "value_out_of_range",
    "1 5:\u0661": "wrong_encoding",
}


def lines_of(file):
    return file.read_bytes().split(b"\n")[:-1]


@pytest.fixture
def mixed(tmp_path):
    """600 well-formed lines, with one malformed line of every kind among them, and their line numbers."""
    file = tmp_path / "mixed.txt"
    write_libsvm(file, 600)
    lines = lines_of(file)
    for number, text in enumerate(BAD):
        lines.insert(37 * number + 11, text.encode())
    # Neither rows nor malformed.
    lines[300:300] = [b"", b"# a comment", b" \t"]
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file, {number + 1: (line, BAD[line.decode()]) for number, line in enumerate(lines) if line.decode() in BAD}


def test_malformed_lines_are_stored_with_text_reason_and_location_and_counted(spark, mixed, tmp_path):
    file, expected = mixed
    reported = ReportedLines()
    spark.conf.set("spark.sql.files.maxPartitionBytes", "60000")
    try:
        built, _ = ingest(spark, file, tmp_path / "tables", QUARANTINE, "ingest.max_bad_fraction=0.03", reporter=reported)
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    manifest = built.manifest
    assert sum(manifest.rows(split) for split in ("train", "validation", "test")) == 600
    assert manifest.rejected_rows == manifest.sources[0].rejected_rows == len(BAD)
    assert manifest.rejected_by_reason == dict.fromkeys(BAD.values(), 1)
    kept = pq.read_table(Path(built.uri) / REJECTED_FOLDER).to_pylist()
    assert {row["line"]: (row["raw"], row["reason"]) for row in kept} == expected
    assert [row["line"] for row in kept] == sorted(expected)
    assert {row["file"] for row in kept} == {str(file)}
    assert all(row["detail"] for row in kept)
    assert [path.name for path in (Path(built.uri) / REJECTED_FOLDER).iterdir()] == ["part-00000.parquet"]
    warnings = [line for line in reported if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert f"{file}:12: the label 'x' is not a number" in warnings[0]
    assert "set aside 15 of 615 lines (1 colon_missing, " in warnings[0]
    # These images use the last index, so the single index 0 does not indicate a zero-based file.
    assert "off by one" not in warnings[0]
    assert spark.read.parquet(str(Path(built.uri) / REJECTED_FOLDER)).count() == len(BAD)
    assert spark.read.parquet(built.uri).count() == 600
    again, new = ingest(spark, file, tmp_path / "tables", QUARANTINE, "ingest.max_bad_fraction=0.03")
    assert not new
    assert again == built


def test_without_quarantine_the_first_malformed_line_fails_the_job_even_if_a_table_without_it_exists(spark, mixed, tmp_path):
    file, _ = mixed
    ingest(spark, file, tmp_path / "tables", QUARANTINE, "ingest.max_bad_fraction=0.03")
    with pytest.raises(DataError) as caught:
        ingest(spark, file, tmp_path / "tables")
    assert str(caught.value).startswith(f"{file}:12: the label 'x' is not a number")
    assert "15 of 615 rows are malformed (1 colon_missing, " in str(caught.value)
    assert str(caught.value).endswith("set ingest.on_bad_rows=quarantine to continue without such lines")


def test_more_malformed_lines_than_allowed_fail_the_job_and_leave_nothing_behind(spark, mixed, tmp_path):
    file, _ = mixed
    with pytest.raises(DataError, match=r":12: .* 15 of 615 rows are malformed .* ingest\.max_bad_fraction=0\.01 allows"):
        ingest(spark, file, tmp_path / "tables", QUARANTINE)
    assert not list((tmp_path / "tables").iterdir())


def test_a_clean_file_yields_the_same_table_in_both_modes(spark, tmp_path):
    write_libsvm(tmp_path / "clean.txt", 200)
    careful, _ = ingest(spark, tmp_path / "clean.txt", tmp_path / "tables", QUARANTINE)
    assert not (Path(careful.uri) / REJECTED_FOLDER).exists()
    strict, new = ingest(spark, tmp_path / "clean.txt", tmp_path / "tables")
    assert not new
    assert strict == careful


@pytest.mark.parametrize("settings", [(), (QUARANTINE,)], ids=["fail", "quarantine"])
def test_a_zero_based_file_is_detected_reported_once_and_parsed_with_the_setting(spark, tmp_path, settings):
    file, zero_based = tmp_path / "one.txt", tmp_path / "zero.txt"
    write_libsvm(file, 300)
    with zero_based.open("w") as out:
        for line in file.read_text().splitlines():
            label, *pairs = line.split()
            shifted = (pair.split(":") for pair in pairs)
            out.write(" ".join([label, *(f"{int(index) - 1}:{value}" for index, value in shifted)]) + "\n")
    reported = ReportedLines()
    with pytest.raises(DataError) as caught:
        ingest(spark, zero_based, tmp_path / "tables", *settings, reporter=reported)
    assert str(caught.value).startswith(f"{zero_based}:1: index 0: libsvm indices start at 1")
    assert "set data.zero_based=true" in str(caught.value)
    assert "lines have an index 0 and none uses 144, so the file seems to be zero-based" in str(caught.value)
    assert sum("index 0" in line for line in reported) == 0
    built, _ = ingest(spark, zero_based, tmp_path / "tables", *settings, "data.zero_based=true")
    expected, _ = ingest(spark, file, tmp_path / "tables")
    assert [rows_of(built, split) for split in ("train", "test")] == [rows_of(expected, split) for split in ("train", "test")]


def test_two_thousand_fuzzed_lines_parse_as_with_sklearn_or_are_stored_with_their_line_number(spark, tmp_path):
    seed = 20_240_611
    rng = random.Random(seed)
    lines = [mutations.mutated(rng) for _ in range(2000)]
    file = tmp_path / "fuzzed.txt"
    file.write_bytes(b"\n".join(lines))
    spark.conf.set("spark.sql.files.maxPartitionBytes", "20000")
    try:
        built, _ = ingest(
            spark,
            file,
            tmp_path / "tables",
            QUARANTINE,
            "ingest.max_bad_fraction=0.9",
            "data.image_shape=[3, 4, 1]",
            "data.classes=10",
        )
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    assert built.manifest.rejected_rows > 300
    kept = pq.read_table(Path(built.uri) / REJECTED_FOLDER).to_pylist()
    assert all(row["raw"] == lines[row["line"] - 1] for row in kept)
    refused = {row["line"] for row in kept}
    expected = []
    for number, line in enumerate(lines):
        read = mutations.parsed_by_sklearn(line)
        if number + 1 in refused or read is None:
            continue
        assert not isinstance(read, str), line
        expected.append((read[0].astype("<f4").tobytes(), int(read[1])))
    rows = [row for split in ("train", "validation", "test") for row in rows_of(built, split)]
    assert built.manifest.spec.dtype == "float32"
    assert sorted(rows) == sorted(expected)
    assert len(rows) > 700


def test_windows_line_endings_and_tabs_yield_the_same_rows(spark, tmp_path):
    write_libsvm(tmp_path / "unix.txt", 200)
    text = (tmp_path / "unix.txt").read_text()
    (tmp_path / "windows.txt").write_bytes(text.replace(" ", "\t").replace("\n", "\r\n").encode())
    unix, _ = ingest(spark, tmp_path / "unix.txt", tmp_path / "tables")
    windows, _ = ingest(spark, tmp_path / "windows.txt", tmp_path / "tables")
    assert rows_of(windows, "train") == rows_of(unix, "train")
    assert np.array_equal(windows.manifest.splits["test"].rows_per_label, unix.manifest.splits["test"].rows_per_label)
