"""Rows of features that are no picture, targets that are numbers, and weights: settings, parsing and the passes of ingest."""

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from pipelines.config import loader
from pipelines.data.formats.chunk import Chunk
from pipelines.data.formats.libsvm import parse
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.ingest import table
from pipelines.data.ingest.permutation import Permutation, plan_segments
from pipelines.data.ingest.shuffle_pass import Plan, shuffle_batches
from pipelines.data.ingest.statistics import Moments
from pipelines.data.ingest.write_pass import path_of, write_batches
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.sources.parsed_rows import BlockReport, chunk_batches
from pipelines.data.table.schema import DataSpec
from pipelines.errors import ConfigError
from pipelines.models import registry
from pipelines.system.fingerprint import Fingerprint

ANY = (-1e37, 1e37)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["data.features=1000000"],
            "data.features=1000000: must be at most 65,536: rows are stored with their zeros, so a row would take 4.0 MB and a "
            "batch of 128 rows 512 MB; select features, or hash them into fewer",
        ),
        (["data.features=-1"], "data.features=-1: must be 0 (pictures) or more"),
        (
            ["data.features=65536", "training.batch_size_per_worker=5000"],
            "training.batch_size_per_worker=5000: must be at most 3,814 with data.features=65536: a row takes 0.262144 MB, and a "
            "batch at most 1 GB",
        ),
        (
            ["data.features=3", "training.augment_shift=0.1"],
            "training.augment_shift=0.1: must be 0 with data.features: it is for",
        ),
        (["data.features=3", "training.augment_flip=true"], "training.augment_flip=True: must be false with data.features"),
        (["data.features=3", "training.test_views=5"], "training.test_views=5: must be 1 with data.features"),
        (["data.features=3", "data.resize_pictures=true"], "data.resize_pictures=True: must be false with data.features"),
        (["data.value_range=wide"], "data.value_range=wide: must be a list of numbers, for example [1, 2], or one of auto"),
        (["data.scaling=log"], "data.scaling=log: must be one of range, standardize, none"),
    ],
)
def test_what_features_do_not_allow_is_one_line_before_anything_starts(settings, message):
    with pytest.raises(ConfigError) as caught:
        loader.load(None, settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in registry.NETWORKS if name not in registry.TAKE_FEATURES])
def test_a_network_of_convolutions_refuses_features(name):
    registry.check_features(name, 0)
    with pytest.raises(
        ConfigError, match=rf"^model\.name={name}: needs pictures, .*data\.features=7 rows are none; there are mlp,"
    ):
        registry.check_features(name, 7)


def test_the_perceptrons_take_features():
    for name in registry.TAKE_FEATURES:
        registry.check_features(name, 7)


@pytest.mark.parametrize("targets", [1, 3])
def test_targets_and_features_parse_as_with_sklearn(targets):
    generator = np.random.default_rng(1)
    values = generator.normal(0, 100, (50, 6)) * (generator.random((50, 6)) < 0.6)
    numbers = generator.normal(0, 1e4, (50, targets))
    text = io.BytesIO()
    dump_svmlight_file(values, numbers[:, 0], text, zero_based=False)
    lines = [line.partition(b" ")[2] for line in text.getvalue().splitlines()]
    written = b"".join(
        b"%s %s\n" % (",".join(map(repr, row.tolist())).encode(), line) for row, line in zip(numbers, lines, strict=True)
    )
    chunk = parse(written, Rules(shape=(6,), value_range=ANY, labels=(), num_targets=targets))
    assert chunk.bad_lines == ()
    assert (chunk.targets.dtype, chunk.targets.shape) == (np.float32, (50, targets))
    np.testing.assert_array_equal(chunk.targets, numbers.astype(np.float32))
    text.seek(0)
    np.testing.assert_array_equal(chunk.inputs, load_svmlight_file(text, n_features=6)[0].toarray().astype(np.float32))


def test_whole_numbers_are_targets_like_all_others():
    rules = Rules(shape=(2,), value_range=ANY, labels=(), num_targets=1)
    chunk = parse(b"7 1:1\n-7 2:2\n7.5\n007 2:255\n", rules)
    assert chunk.targets.tolist() == [[7.0], [-7.0], [7.5], [7.0]]
    assert chunk.inputs.dtype == np.uint8


@pytest.mark.parametrize(
    ("line", "targets", "reason", "text"),
    [
        (b"nan 1:1", 1, "target_not_finite", "the target 'nan' is not a finite number from -1e+37 to 1e+37"),
        (b"-inf 1:1", 1, "target_not_finite", "the target '-inf' is not a finite number"),
        (b"1e300 1:1", 1, "target_not_finite", "the target '1e300' is not a finite number"),
        (b"cat 1:1", 1, "target_not_a_number", "the target 'cat' is not a number"),
        (b"1,2 1:1", 1, "number_of_targets", "the target '1,2' has 2 numbers; data.targets says that there are 1"),
        (
            b"1 1:1",
            2,
            "number_of_targets",
            "the target '1' has 1 numbers; data.targets says that there are 2, separated by commas",
        ),
        (b"1 3:1", 1, "index_too_large", "index 3 is above 2, data.features=2"),
        (b"1 1:1e38", 1, "value_out_of_range", "value '1e38' at index 1 is outside data.value_range=[-1e+37, 1e+37]"),
    ],
)
def test_a_bad_target_or_feature_is_a_bad_row(line, targets, reason, text):
    rules = Rules(shape=(2,), value_range=ANY, labels=(), num_targets=targets)
    good = b",".join([b"0.5"] * targets) + b" 1:1\n"
    chunk = parse(good + line + b"\n" + good, rules)
    (bad,) = chunk.bad_lines
    assert (bad.number, bad.fault.reason) == (1, reason)
    assert bad.fault.text.startswith(text)
    assert len(chunk.targets) == 2
    predicted = parse(line + b"\n", dataclasses.replace(rules, any_label=True))
    assert (len(predicted.bad_lines) == 0) == reason.endswith(("target_not_finite", "target_not_a_number", "number_of_targets"))
    assert np.isnan(predicted.targets).all() or line == b"1 1:1"


def test_a_value_outside_the_range_of_features_says_how_to_allow_it():
    chunk = parse(b"1 1:300\n", Rules(shape=(2,), value_range=(0.0, 255.0), labels=(0, 1)))
    assert chunk.bad_lines[0].fault.text == "value '300' at index 1 is outside data.value_range=[0, 255] (auto allows any)"


def test_targets_and_weights_go_through_the_passes_to_the_row_that_they_belong_to(tmp_path):
    generator = np.random.default_rng(3)
    rows, features = 120, 5
    inputs = generator.normal(10, 3, (rows, features)).astype(np.float32)
    targets, weights = inputs[:, :2] * 2, inputs[:, 0] + 100
    report, parsed = BlockReport(0, 0), []
    for start in range(0, rows, 50):
        part = slice(start, start + 50)
        size = len(inputs[part])
        chunk = Chunk(
            num_lines=size, inputs=inputs[part], targets=targets[part], weights=weights[part], lines=np.arange(size), bad_lines=()
        )
        parsed += chunk_batches(chunk, report, False, False)
    assert report.is_weighted
    segments = plan_segments(
        train_rows=rows, test_rows=None, validation_fraction=0.2, test_fraction=0.1, rows_per_row_group=25, bytes_per_row=20
    )
    spec = DataSpec(
        shape=(features,), dtype="float32", value_range=ANY, checks_range=False, task="regression", scaling="standardize"
    )
    plan = Plan(
        segments=segments,
        first_row={(0, 0): 0},
        file_splits=("train",),
        orders={"train": Permutation(rows, 1, "train")},
        spec=spec,
        num_classes=0,
        num_targets=2,
        weighted=True,
    )
    placed = [row for batch in shuffle_batches(parsed, plan) for row in batch.to_pylist()]
    placed.sort(key=lambda row: (row["segment"], row["file"]))
    for segment in segments:
        (tmp_path / f"split={segment.split}").mkdir()
    written = [
        row for batch in write_batches([pa.RecordBatch.from_pylist(placed)], plan, str(tmp_path)) for row in batch.to_pylist()
    ]
    found = 0
    for row in written:
        split = segments[row["segment"]].split
        table = pq.read_table(tmp_path / path_of(split, row["file"]), partitioning=None)
        assert table.column_names == ["features", "target", "weight"]
        values = [np.frombuffer(value, "<f4") for value in table["features"].to_pylist()]
        for value, target, weight in zip(values, table["target"].to_pylist(), table["weight"].to_pylist(), strict=True):
            np.testing.assert_array_equal(np.frombuffer(target, "<f4"), value[:2] * 2)
            assert weight == value[0] + np.float32(100)
        found += len(values)
        assert row["rows_per_label"] == []
        assert (row["moments"] is None) == (row["value_range"] is None) == (row["target_moments"] is None) == (split != "train")
        if split == "train":
            assert row["value_range"] == [np.min(values), np.max(values)]
            np.testing.assert_allclose(Moments.from_bytes(row["moments"]).means, np.mean(values, axis=0), rtol=1e-6)
            np.testing.assert_allclose(
                Moments.from_bytes(row["target_moments"]).means, 2 * np.mean(values, axis=0)[:2], rtol=1e-6
            )
    assert found == rows


def key_of(*settings):
    config = loader.load(None, ["data.image_shape=[12,12,1]", "data.classes=4", *settings])
    source = LibsvmFiles("digits", (("a.txt", "train"), ("b.txt", "test")))
    (key,) = table.possible_keys(config, source, [Fingerprint(1, "a" * 64), Fingerprint(2, "b" * 64)])
    return key


def test_tables_of_classified_pictures_keep_the_keys_that_they_had_and_every_new_setting_makes_another():
    before = "5a0d040f62f74d0ae8e90890ee6e83ea2c1c45029b2858cdaa3e6b19f57c9954"
    others = [
        key_of(*settings)
        for settings in (
            ("data.features=144",),
            ("data.features=145",),
            ("data.scaling=standardize",),
            ("data.value_range=auto",),
            ("data.task=regression",),
            ("data.task=regression", "data.targets=2"),
        )
    ]
    assert key_of() == before
    assert len({before, *others}) == 7
