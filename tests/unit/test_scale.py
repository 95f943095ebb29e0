"""The arithmetic of docs/scale.md, recomputed with the code's own functions."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support.synthetic import write_table

from pipelines.config import StreamConfig
from pipelines.data.ingest.build import _BYTES_PER_WRITE_TASK, _MAX_BYTES_PER_ROW_GROUP
from pipelines.data.ingest.permutation import Permutation, plan_segments
from pipelines.data.stream.sharding import file_parts, shard, steps_per_epoch
from pipelines.data.table.schema import TableFile, TableManifest

TERABYTE = 10**12
IMAGES = {"28 x 28 grey": 28 * 28, "224 x 224 colour": 224 * 224 * 3}
DOCUMENT = (Path(__file__).parents[2] / "docs/scale.md").read_text()


def segments(image):
    return plan_segments(
        train_rows=TERABYTE // IMAGES[image],
        test_rows=None,
        validation_fraction=0.1,
        test_fraction=0.1,
        rows_per_row_group=0,
        bytes_per_row=IMAGES[image],
    )


def training(image):
    return next(segment for segment in segments(image) if segment.split == "train")


@pytest.mark.parametrize("image", IMAGES)
def test_the_table_of_a_terabyte_matches_the_document(image):
    train, size = training(image), IMAGES[image]
    files = sum(segment.num_files for segment in segments(image))
    assert (
        f"| {image} | {TERABYTE // size:,} | {train.rows_per_file:,} | {files:,} | {TERABYTE // _BYTES_PER_WRITE_TASK:,} |"
        in DOCUMENT
    )
    assert train.rows_per_file * size <= _MAX_BYTES_PER_ROW_GROUP


@pytest.mark.parametrize("workers", [8, 64, 512])
@pytest.mark.parametrize("image", IMAGES)
def test_the_shards_of_a_terabyte_match_the_document(image, workers):
    train, size, limit = training(image), IMAGES[image], StreamConfig().memory_limit_mb * 1_000_000
    shards = [shard(train.rows, rank, workers) for rank in range(workers)]
    assert sum(map(len, shards)) == train.rows
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    rows = len(shards[0])
    kept = "memory" if rows * size <= limit else "stream"
    groups = rows // train.rows_per_file
    steps = steps_per_epoch(train.rows, workers, 128)
    assert f"| {image} | {workers} | {rows:,} | {rows * size / 1e9:.1f} GB | {groups:,} | {kept} | {steps:,} |" in DOCUMENT


@pytest.mark.parametrize("image", IMAGES)
def test_the_memory_of_a_streaming_worker_matches_the_document(image):
    buffer = StreamConfig().shuffle_buffer_rows
    assert f"| {image} | {buffer * IMAGES[image] / 1e6:,.0f} MB |" in DOCUMENT


def test_a_permutation_of_a_billion_rows_needs_no_memory_and_repeats_no_row():
    rows = TERABYTE // IMAGES["28 x 28 grey"]
    order = Permutation(rows, seed=1, name="train")
    sample = np.arange(rows - 200_000, rows, dtype=np.int64)
    places = order(sample)
    assert places.min() >= 0
    assert places.max() < rows
    assert len(np.unique(places)) == len(sample)
    # Adjacent source rows land anywhere in the table: in a uniform order the mean distance of two rows is a third.
    assert np.abs(np.diff(places)).mean() / rows == pytest.approx(1 / 3, abs=0.01)


def test_the_manifest_size_of_a_terabyte_matches_the_document(tmp_path):
    manifest = write_table(tmp_path, {"train": 60, "test": 60}).manifest
    train = training("28 x 28 grey")
    name = "split=train/part-{:05d}.parquet"
    files = tuple(
        TableFile(path=name.format(number), rows=train.rows_of_file(number), num_bytes=2**25, sha256="0" * 64)
        for number in range(train.num_files)
    )
    per_label = (train.rows, *[0] * (manifest.num_classes - 1))
    split = dataclasses.replace(manifest.splits["train"], files=files, rows=train.rows, rows_per_label=per_label)
    text = dataclasses.replace(manifest, splits={**manifest.splits, "train": split}).to_json()
    assert f"{len(text) / 1e6:.0f} MB of JSON" in DOCUMENT
    assert TableManifest.from_json(text, "here").rows("train") == train.rows == sum(file["rows"] for file in _files(text))
    # One of 512 workers finds its own files among them.
    parts = file_parts(files, shard(train.rows, 511, 512))
    assert sum(map(len, parts)) == len(shard(train.rows, 511, 512))
    assert len(parts) <= 49


def _files(text):
    return json.loads(text)["splits"]["train"]["files"]


def test_the_hours_of_ingest_follow_from_the_measured_rate():
    rows_per_core_second = 610_000 / 27.3 / 2
    hours = TERABYTE // IMAGES["28 x 28 grey"] / rows_per_core_second / 3600
    assert f"{hours:.0f} core-hours, {hours / 64:.1f} hours on 64 cores" in DOCUMENT
