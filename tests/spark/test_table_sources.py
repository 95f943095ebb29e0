"""Rows from Spark tables, views and files that Spark reads, with every type of column."""

import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.ml.linalg import Vectors
from support.ingesting import ingest
from support.reported import ReportedLines
from support.synthetic import images_and_labels

from pipelines.errors import ConfigError, DataError

NAMES = ("setosa", "versicolor", "virginica")
COLUMNS = "{label: species, features: [length, width, petals]}"
FEATURES = (f"data.columns={COLUMNS}", "data.classes=3", "data.value_range=[-100,100]")


def flowers(rows, seed=1):
    """(id, length, width, petals, species, weight, fold) of some flowers."""
    rng = np.random.default_rng(seed)
    for number in range(rows):
        species = int(rng.integers(3))
        length, width = rng.normal(species, 0.3), rng.normal(-species, 0.3)
        fold = ("train", "train", "train", "validation", "test")[number % 5]
        yield number, float(length), float(width), 3 + species, NAMES[species], 0.5 + species, fold


SCHEMA = "id bigint, length double, width float, petals int, species string, weight double, fold string"


@pytest.fixture(scope="module")
def rows():
    return list(flowers(200))


@pytest.fixture(scope="module")
def frame(spark, rows):
    return spark.createDataFrame(rows, SCHEMA)


@pytest.fixture(scope="module")
def parquet(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flowers") / "flowers.parquet"
    frame.repartition(3).write.parquet(str(folder))
    return folder


def stored(built, *splits):
    """Every row of the splits, in table order, as a tuple of its values, its target and its weight."""
    found = []
    manifest = built.manifest
    for split in splits or tuple(manifest.splits):
        for file in manifest.splits[split].files:
            columns = pq.ParquetFile(Path(built.uri) / file.path).read().to_pydict()
            inputs = columns["features" if "features" in columns else "image"]
            values = [tuple(np.frombuffer(value, manifest.spec.dtype).tolist()) for value in inputs]
            targets = columns.get("label") or [tuple(np.frombuffer(each, "<f4").tolist()) for each in columns["target"]]
            found += zip(values, targets, columns.get("weight", itertools.repeat(1.0)), strict=False)
    return found


def single(*numbers):
    return tuple(np.asarray(numbers, np.float32).tolist())


def expected(rows):
    return sorted((single(*row[1:4]), NAMES.index(row[4]), 1.0) for row in rows)


def test_a_table_of_the_catalog_with_text_labels_becomes_a_table_of_features(spark, frame, rows, tmp_path):
    frame.write.mode("overwrite").saveAsTable("flowers_of_the_catalog")
    try:
        lines = ReportedLines()
        built, new = ingest(spark, "table:flowers_of_the_catalog", tmp_path, *FEATURES, reporter=lines)
        assert new
        assert sorted(stored(built)) == expected(rows)
        manifest = built.manifest
        assert (manifest.class_names, manifest.labels, manifest.spec.shape) == (NAMES, (0, 1, 2), (3,))
        assert manifest.dataset == "flowers_of_the_catalog"
        assert manifest.reading.source == "table"
        assert manifest.reading.columns == {"label": ["species"], "features": ["length", "width", "petals"]}
        assert any("classes in this order: setosa, versicolor, virginica" in line for line in lines)
        assert any("3 features in length, width, petals" in line for line in lines)
        again, new = ingest(spark, "table:flowers_of_the_catalog", tmp_path, *FEATURES)
        assert (again.uri, new) == (built.uri, False)
        frame.limit(1).write.mode("append").saveAsTable("flowers_of_the_catalog")
        assert ingest(spark, "table:flowers_of_the_catalog", tmp_path, *FEATURES)[0].uri != built.uri
    finally:
        spark.sql("DROP TABLE flowers_of_the_catalog")


@pytest.mark.parametrize("format_name", ["parquet", "orc", "json", "csv"])
def test_files_of_any_format_hold_the_same_rows_in_an_order_that_partitioning_does_not_change(
    spark, frame, rows, tmp_path, format_name
):
    data = tmp_path / f"some {{flowers}}.{format_name}"
    options = {"header": "true"} if format_name == "csv" else {}
    frame.repartition(2).write.format(format_name).options(**options).save(str(data))
    first, _ = ingest(spark, f"{format_name}:{data}", tmp_path / "a", *FEATURES)
    assert sorted(stored(first)) == expected(rows)
    if format_name not in ("parquet", "orc"):
        return
    spark.conf.set("spark.sql.files.maxPartitionBytes", "2000")
    try:
        second, _ = ingest(spark, f"{format_name}:{data}", tmp_path / "b", *FEATURES)
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    assert stored(first) == stored(second)
    assert first.manifest.key == second.manifest.key


def test_a_view_is_read_in_the_order_of_its_content(spark, frame, rows, tmp_path):
    tables = []
    for parts in (1, 7):
        frame.repartition(parts).createOrReplaceTempView("shuffled_flowers")
        tables.append(ingest(spark, "table:shuffled_flowers", tmp_path / str(parts), *FEATURES)[0])
    assert sorted(stored(tables[0])) == expected(rows)
    assert stored(tables[0]) == stored(tables[1])
    frame.where("id > 0").createOrReplaceTempView("shuffled_flowers")
    assert ingest(spark, "table:shuffled_flowers", tmp_path / "1", *FEATURES)[0].manifest.key != tables[0].manifest.key


def test_a_column_of_splits_decides_where_rows_go(spark, parquet, rows, tmp_path):
    columns = "data.columns={label: species, features: [length, width, petals], split: fold, weight: weight}"
    built, _ = ingest(spark, f"parquet:{parquet}", tmp_path, *FEATURES[1:], columns)
    for split in ("train", "validation", "test"):
        of_split = [row for row in rows if row[6] == split]
        assert sorted(stored(built, split)) == sorted((single(*row[1:4]), NAMES.index(row[4]), row[5]) for row in of_split)
    assert [(source.split, source.rows) for source in built.manifest.sources] == [
        ("train", 120),
        ("validation", 40),
        ("test", 40),
    ]
    assert built.manifest.weighted
    again, new = ingest(spark, f"parquet:{parquet}", tmp_path, *FEATURES[1:], columns, "ingest.validation_fraction=0.3")
    assert (again.uri, new) == (built.uri, False)


def test_another_table_can_hold_the_test_rows(spark, frame, parquet, rows, tmp_path):
    spark.createDataFrame(list(flowers(30, seed=9)), SCHEMA).createOrReplaceTempView("test_flowers")
    built, _ = ingest(spark, f"parquet:{parquet}", tmp_path, *FEATURES, "data.test_file=table:test_flowers")
    assert sorted(stored(built, "test")) == expected(flowers(30, seed=9))
    assert sorted(stored(built, "train", "validation")) == expected(rows)


def test_lists_and_vectors_are_features(spark, rows, tmp_path):
    packed = []
    for number, row in enumerate(rows):
        values = [float(value) for value in row[1:4]]
        vector = Vectors.dense(values) if number % 2 else Vectors.sparse(3, [0, 1, 2], values)
        packed.append((row[4], vector, values))
    spark.createDataFrame(packed, ["species", "vector", "list"]).createOrReplaceTempView("packed_flowers")
    for name in ("vector", "list"):
        settings = (*FEATURES[1:], f"data.columns={{label: species, features: {name}}}")
        built, _ = ingest(spark, "table:packed_flowers", tmp_path / name, *settings)
        assert sorted(stored(built)) == expected(rows)
        assert built.manifest.spec.shape == (3,)


def test_targets_of_a_regression_are_one_column_or_several_or_a_list(spark, frame, rows, tmp_path):
    frame.selectExpr("*", "array(length, width) AS both").createOrReplaceTempView("measured_flowers")
    one = sorted(((float(row[3]),), single(row[1]), 1.0) for row in rows)
    two = sorted(((float(row[3]),), single(row[1], row[2]), 1.0) for row in rows)
    for label, names, found in (
        ("length", ("length",), one),
        ("[length, width]", ("length", "width"), two),
        ("both", ("target_1", "target_2"), two),
    ):
        settings = [f"data.columns={{label: {label}, features: petals}}", "data.task=regression"]
        settings += ["data.targets=2"] if label == "both" else []
        built, _ = ingest(spark, "table:measured_flowers", tmp_path / names[0], *settings)
        assert sorted(stored(built)) == found
        assert built.manifest.target_names == names
        assert (built.manifest.labels, built.manifest.class_names) == ((), ())


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def test_pictures_in_every_kind_of_column_give_the_same_table(spark, tmp_path):
    images, labels = images_and_labels(60)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:03d}.png").write_bytes(png(image[:, :, 0]))
    encoded = [(png(image[:, :, 0]), int(label)) for image, label in zip(images, labels, strict=True)]
    spark.createDataFrame(encoded, "image binary, label int").createOrReplaceTempView("as_files")
    spark.sql("SELECT struct(image AS bytes, '' AS path) AS image, label FROM as_files").createOrReplaceTempView(
        "as_hugging_face"
    )
    raw = [(image.tobytes(), float(label)) for image, label in zip(images, labels, strict=True)]
    spark.createDataFrame(raw, "image binary, label double").createOrReplaceTempView("as_bytes")
    lists = [(image.reshape(-1).tolist(), int(label)) for image, label in zip(images, labels, strict=True)]
    spark.createDataFrame(lists, "image array<int>, label int").createOrReplaceTempView("as_lists")
    numbers = spark.createDataFrame([(number, int(label)) for number, label in enumerate(labels)], "number int, label int")
    decoded = spark.read.format("image").load(str(folder))
    decoded = decoded.selectExpr("image", "cast(regexp_extract(image.origin, '([0-9]+).png', 1) AS int) AS number")
    decoded.join(numbers, "number").createOrReplaceTempView("as_images")
    wanted = sorted((tuple(image.reshape(-1).tolist()), int(label), 1.0) for image, label in zip(images, labels, strict=True))
    for view in ("as_files", "as_hugging_face", "as_bytes", "as_lists", "as_images"):
        built, _ = ingest(spark, f"table:{view}", tmp_path / view)
        assert built.manifest.spec.dtype == "uint8"
        assert sorted(stored(built)) == wanted, view


BAD = {
    3: ("species", "NULL", "label_missing", "the label is missing (null)"),
    5: ("length", "NULL", "value_not_finite", "the value at [0] is missing or not finite"),
    7: ("width", "float('nan')", "value_not_finite", "the value at [1] is missing or not finite"),
    9: (
        "length",
        "101D",
        "value_out_of_range",
        "the value at [0] is 101, outside the range -100 to 100 that data.value_range allows",
    ),
    11: ("weight", "-1D", "weight_negative", "the weight -1.0 is negative; a row counts 0 or more"),
    13: ("weight", "NULL", "weight_missing", "the weight is missing (null)"),
    15: ("fold", "'later'", "split_unknown", "the split 'later' is not train, validation or test"),
    17: ("fold", "NULL", "split_missing", "the split is missing (null)"),
    19: ("species", "'rose'", "label_unknown", "the label 'rose' is not one of setosa, versicolor, virginica (data.class_names)"),
}
KINDS = "label: species, features: [length, width, petals], weight: weight, split: fold"


@pytest.fixture(scope="module")
def faulty(frame, tmp_path_factory):
    """A Parquet file of the flowers in the order of their ids, some of which are bad."""
    columns = []
    for name in frame.columns:
        cases = [f"WHEN id = {row} THEN {value}" for row, (column, value, _, _) in BAD.items() if column == name]
        columns.append(f"CASE {' '.join(cases)} ELSE {name} END AS {name}" if cases else name)
    folder = tmp_path_factory.mktemp("faulty") / "data"
    frame.coalesce(1).sort("id").selectExpr(*columns).write.parquet(str(folder))
    return folder


def test_a_bad_row_is_named_by_its_id_or_its_place_in_its_file(spark, faulty, tmp_path):
    (file,) = faulty.glob("*.parquet")
    settings = ("data.class_names=[setosa,versicolor,virginica]", *FEATURES[1:])
    for kinds, name in ((KINDS, "row 5"), (f"{KINDS}, id: id", "row with id 5")):
        with pytest.raises(DataError) as raised:
            ingest(spark, f"parquet:{faulty}", tmp_path, *settings, f"data.columns={{{kinds}}}")
        message = f"{file}: {name}: the value at [0] is missing or not finite; 5 of 120 rows are malformed"
        assert str(raised.value).startswith(message)
    assert not list(tmp_path.glob("*/_manifest.json"))


def test_bad_rows_of_every_kind_are_set_aside_with_their_places(spark, faulty, tmp_path):
    (file,) = faulty.glob("*.parquet")
    settings = ("data.class_names=[setosa,versicolor,virginica]", *FEATURES[1:], f"data.columns={{{KINDS}}}")
    quarantine = ("ingest.on_bad_rows=quarantine", "ingest.max_bad_fraction=0.2")
    built, _ = ingest(spark, f"parquet:{faulty}", tmp_path, *settings, *quarantine)
    assert len(stored(built)) == 200 - len(BAD)
    rejected = sorted(pq.read_table(f"{built.uri}/_rejected").to_pylist(), key=lambda row: len(row["detail"]))
    found = sorted((row["file"], row["reason"], row["detail"]) for row in rejected)
    assert found == sorted((str(file), reason, f"row {row}: {text}") for row, (_, _, reason, text) in BAD.items())
    assert all(b'"target"' in row["raw"] for row in rejected)


MISTAKES = {
    "table:no_such_table": ("", "this Spark session has no such table or view"),
    "table:petals": ("", "this Spark session has no such table or view; did you mean petal?"),
    "delta:{data}": ("", "this Spark session cannot read the format 'delta'; add its package"),
    "parquet:{data}": ("label: specie, features: length", "has no such column; did you mean species? it has id, length, width"),
    "parquet:{data}/": ("label: species, features: [length, species]", "names the column species twice"),
    "parquet:{data}//": ("label: species, features: [length, fold]", "has type string in parquet:"),
    "parquet:{data}///": ("label: petals, features: length, split: species", "no row of parquet:"),
    "parquet:{data}////": ("label: fold, features: length, weight: species", "it must hold numbers"),
    "parquet:{data}/////": ("label: fold, features: length", "set data.classes to their number"),
    "parquet:{data}//////": ("label: petals, lables: length", "unknown column lables; did you mean label?"),
    "parquet:{data}///////": ("label: length, image: species", "it must hold pictures, raw values, lists of numbers or vectors"),
}


@pytest.mark.parametrize("location", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_there_is(spark, frame, parquet, tmp_path, location):
    frame.createOrReplaceTempView("petal")
    columns, message = MISTAKES[location]
    settings = ["data.classes=2", "data.wait_seconds=0"] + ([f"data.columns={{{columns}}}"] if columns else [])
    with pytest.raises(ConfigError) as raised:
        ingest(spark, location.format(data=parquet), tmp_path, *settings)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_that_changes_while_it_is_read_is_not_published(spark, rows, tmp_path):
    def write(number):
        columns = {"length": [row[1] for row in rows[number:]], "species": [row[4] for row in rows[number:]]}
        pq.write_table(pa.table(columns), tmp_path / "flowers.parquet")

    class Writer(ReportedLines):
        def say(self, text):
            super().say(text)
            if "Spark reads" in text:
                write(1)

    write(0)
    location, columns = f"parquet:{tmp_path}/flowers.parquet", "data.columns={label: species, features: length}"
    with pytest.raises(DataError, match=r"flowers\.parquet: the source changed while it was read"):
        ingest(spark, location, tmp_path / "tables", columns, *FEATURES[1:], reporter=Writer())
    assert not list((tmp_path / "tables").glob("*/_manifest.json"))
