"""Settings, locations and values of Spark tables, without Spark."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import loader
from pipelines.config.columns import Columns
from pipelines.data.formats.arrow_targets import Classes, class_indices, class_order, targets, weights
from pipelines.data.formats.image_format import ImageFormat
from pipelines.data.sources.column_types import column_kind
from pipelines.data.sources.parsed_rows import BlockReport
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.sources.spark_table import SparkTable
from pipelines.data.sources.table_pass import TableRules, read_batches
from pipelines.errors import ConfigError
from pipelines.system import spark_location
from pipelines.system.reporter import NullReporter


def test_columns_are_named_by_a_mapping_and_images_are_the_default():
    assert Columns.of({}) == Columns(label=("label",), image="image")
    columns = Columns.of({"label": ["a", "b"], "features": "c", "weight": "w"})
    assert (columns.label, columns.features, columns.image, columns.inputs) == (("a", "b"), ("c",), "", ("c",))
    assert columns.used == ("c", "a", "b", "w")
    assert Columns.of(columns.as_setting()) == columns


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("{lable: x}", "data.columns: unknown column lable; did you mean label?"),
        ("{rows: x}", "data.columns: unknown column rows; it takes label, image, features, weight, split, id"),
        ("{label: 3}", "data.columns.label=3: must be the name of a column, or a list of such names"),
        ("{weight: [a, b]}", "data.columns.weight=['a', 'b']: must be the name of a column"),
        ("{features: []}", "data.columns.features=[]: must be the name of a column, or a list of such names"),
        ("{image: a, features: b}", "data.columns: has both image and features; name one of them"),
        ("{features: [a, label]}", "data.columns: names the column label twice; what is predicted must not be among the inputs"),
        ("{label: [a, b]}", "with one label: only data.task=regression takes several columns"),
    ],
)
def test_wrong_columns_are_one_line(setting, message):
    with pytest.raises(ConfigError) as raised:
        loader.load(None, [f"data.columns={setting}"])
    assert message in str(raised.value)


def test_locations_of_spark_are_told_from_paths(tmp_path, monkeypatch):
    assert spark_location.parse("table:main.default.flowers") == ("table", "main.default.flowers")
    assert spark_location.parse("Parquet:/data/x") == ("parquet", "/data/x")
    assert spark_location.parse("delta:s3://bucket/x") == ("delta", "s3://bucket/x")
    assert not spark_location.parse("delta:s3://bucket/x").is_path
    for location in (
        "mnist",
        "/a/b",
        "dbfs:/a",
        "file:/a",
        "s3://bucket/x",
        "parquet://x",
        "a:b.txt",
        "2026:x",
        "own:/no/such/path",
    ):
        assert spark_location.parse(location) is None, location
    (tmp_path / "x.own").write_text("")
    assert spark_location.parse(f"own:{tmp_path}/x.own") == ("own", f"{tmp_path}/x.own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVOY_HOME", "/")
    assert spark_location.given("json:x.own") == f"json:{tmp_path}/x.own"
    assert spark_location.given("table:x.own") == "table:x.own"
    assert [spark_location.short(each) for each in ("table:a.b", "orc:/x/y.orc/", "/x/z.txt")] == ["a.b", "y", "z.txt"]


def test_the_range_of_a_table_need_not_include_zero():
    assert loader.load(None, ["data.dataset=table:a", "data.value_range=[1,7]"]).data.allowed_range == (1, 7)
    with pytest.raises(ConfigError, match="must be a range that includes 0, because libsvm omits zeros"):
        loader.load(None, ["data.dataset=a.txt", "data.value_range=[1,7]"])


def test_a_table_is_a_source_whose_rows_only_spark_knows(tmp_path):
    def found(*settings):
        return resolve_source(loader.load(None, ["data.wait_seconds=0", *settings]).data, NullReporter())

    source = found("data.dataset=table:main.Flowers")
    assert isinstance(source, SparkTable)
    assert (source.dataset, source.files, source.needs_spark) == ("main-flowers", (("table:main.Flowers", "train"),), True)
    assert found("data.dataset=table:a", "data.test_file=table:b").files == (("table:a", "train"), ("table:b", "test"))
    assert found("data.dataset=table:a", "data.columns={split: s}").files == (("table:a", "train"), ("table:a", "test"))
    for settings, message in (
        ([f"data.dataset=orc:{tmp_path}/no"], "no such file or folder"),
        (["data.dataset=table:a", "data.test_file=b.txt"], "must be table:NAME or FORMAT:PATH, as data.dataset is"),
        (["data.dataset=table:a", "data.test_file=table:a"], "must not be the training data"),
        (["data.dataset=table:a", "data.test_file=table:b", "data.columns={split: s}"], "must be empty with data.columns.split"),
    ):
        with pytest.raises(ConfigError) as raised:
            found(*settings)
        assert message in str(raised.value)


def reasons(faults):
    return {row: fault.reason for row, fault in faults.items()}


def test_labels_become_classes_in_their_order_and_others_are_faults():
    texts = Classes(("b", "a"), "data.class_names")
    found, faults = class_indices(pa.array(["a", "b", None, "c", ""]), texts)
    assert found.tolist() == [1, 0, -1, -1, -1]
    assert reasons(faults) == {2: "label_missing", 3: "label_unknown", 4: "label_unknown"}
    assert faults[3].text == "the label 'c' is not one of b, a (data.class_names)"
    numbers = Classes((5, -1), "data.labels")
    for column in (pa.array([5, -1, 7], pa.int64()), pa.array([Decimal(5), Decimal(-1), Decimal(7)], pa.decimal128(5, 2))):
        found, faults = class_indices(column, numbers)
        assert (found.tolist(), reasons(faults)) == ([0, 1, -1], {2: "label_unknown"})
    found, faults = class_indices(pa.array([5.0, math.nan, math.inf, 0.5, None, -1.0]), numbers)
    assert found.tolist() == [0, -1, -1, -1, -1, 1]
    assert reasons(faults) == {1: "label_not_finite", 2: "label_not_finite", 3: "label_not_whole", 4: "label_missing"}


def test_texts_are_ordered_by_number_only_if_all_are_numbers():
    assert class_order(["10", "9", "2"]) == ("2", "9", "10")
    assert class_order(["10", "9", "b"]) == ("10", "9", "b")


def test_targets_and_weights_are_finite_numbers_of_the_right_length():
    found, faults = targets(pa.array([[1.5, 2], [1], None, [1, None], [1e300, 1]], pa.list_(pa.float64())), 2)
    assert found[0].tolist() == [1.5, 2]
    assert reasons(faults) == {1: "target_missing", 2: "target_missing", 3: "target_not_finite", 4: "target_not_finite"}
    found, faults = weights(pa.array([0.0, 2.5, -1.0, None, math.inf, 1e300]))
    assert found[:2].tolist() == [0, 2.5]
    assert reasons(faults) == {
        2: "weight_negative",
        3: "weight_missing",
        4: "weight_not_finite",
        5: "weight_not_finite",
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("decimal(10,2)", "number"),
        ("string collate UTF8_LCASE", "text"),
        ("varchar(3)", "text"),
        ("date", None),
        ({"type": "array", "elementType": "float", "containsNull": True}, "numbers"),
        ({"type": "array", "elementType": "string", "containsNull": True}, None),
        ({"type": "udt", "class": "org.apache.spark.ml.linalg.VectorUDT"}, "vector"),
        ({"type": "map", "keyType": "string", "valueType": "string"}, None),
        ({"type": "struct", "fields": [{"name": "bytes"}, {"name": "path"}]}, "bytes"),
    ],
)
def test_types_of_columns_are_told_apart(kind, expected):
    assert column_kind(kind) == expected


def test_rows_of_several_splits_and_files_are_reported_block_by_block():
    rules = TableRules(
        inputs=ImageFormat(shape=(1,), value_range=(0, 9), digits=False, of_model=False),
        classes=Classes((0, 1), "data.labels"),
        num_targets=1,
        splits={"train": 0, "test": 1},
        file_order={"/b": 1, "/a": 0},
    )
    batch = pa.RecordBatch.from_pydict(
        {
            "x": pa.array([[1.0], [2.0], [3.0], [99.0], [4.0]]),
            "y": pa.array([0, 1, 1, 1, 0]),
            "s": pa.array(["train", "test", "train", "train", "train"]),
            "file": pa.array(["/b", "/b", "/b", "/b", "/a"]),
            "block": pa.array([0, 0, 0, 0, 0]),
            "row": pa.array([0, 1, 2, 3, 0]),
        }
    )
    found = [row for out in read_batches([batch.slice(0, 2), batch.slice(2)], rules, False, False) for row in out.to_pylist()]
    reports = [BlockReport.from_json(row["note"]) for row in found if row["content"] is None]
    assert [(report.file, report.block > 0, report.rows, report.lines) for report in reports] == [
        (0, True, 2, 3),
        (1, True, 1, 1),
        (0, False, 1, 1),
    ]
    assert (reports[0].first_bad_line, reports[0].first_bad_file) == (2, "/b")
    assert reports[0].first_fault == "row 3: the value at [0] is 99, outside the range 0 to 9 that data.value_range allows"
    stored = [np.frombuffer(row["content"], np.uint8).tolist() for row in found if row["content"] is not None]
    assert stored == [[1], [2], [3], [4]]
