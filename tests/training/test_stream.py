import collections
import dataclasses
import pickle
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.synthetic import write_table

from pipelines.config import StreamConfig
from pipelines.data.stream import reader
from pipelines.data.stream.batches import EvaluationData, Shard, TrainingData, load
from pipelines.data.stream.reader import read_blocks
from pipelines.data.stream.sharding import RowRange, shard
from pipelines.data.table.schema import Table
from pipelines.errors import DataError
from pipelines.system.fingerprint import fingerprint

ROWS = 1040
IN_MEMORY, STREAMED = StreamConfig(), StreamConfig(memory_limit_mb=0, shuffle_buffer_rows=128)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("a folder"), {"train": ROWS, "test": 105})


def fingerprints(images):
    return [image.tobytes() for image in np.asarray(images)]


def all_rows(table, split="train"):
    blocks = list(read_blocks(table, split, RowRange(0, table.manifest.rows(split))))
    return [row for images, _ in blocks for row in fingerprints(images)]


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("order_seed", [None, 0, 5])
def test_the_union_of_the_shards_is_the_table(table, workers, order_seed):
    read = [
        row
        for rank in range(workers)
        for images, _ in read_blocks(table, "train", shard(ROWS, rank, workers), order_seed=order_seed)
        for row in fingerprints(images)
    ]
    assert collections.Counter(read) == collections.Counter(all_rows(table))
    assert len(read) == ROWS


def test_no_row_is_lost_in_a_hundred_reads_of_small_files(table):
    for _ in range(100):
        assert sum(len(labels) for _, labels in read_blocks(table, "train", RowRange(3, ROWS - 3))) == ROWS - 6


def test_a_file_that_petastorm_loses_is_read_again(tmp_path, monkeypatch):
    """As on a busy machine: its pool finds all work done, because none has come, and a moment later finds that all has come."""
    from petastorm.workers_pool import EmptyResultError
    from petastorm.workers_pool.thread_pool import ThreadPool

    table, late = write_table(tmp_path, {"train": 40}), []

    def no_result_at_first(pool, really=ThreadPool.get_results):
        if pool in late or len(late) == 3:
            return really(pool)
        late.append(pool)
        deadline = time.monotonic() + 10
        while not pool._ventilator.completed():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise EmptyResultError

    monkeypatch.setattr(ThreadPool, "get_results", no_result_at_first)
    assert len(all_rows(table)) == 40
    assert len(late) == 3


def test_a_table_whose_files_give_no_rows_is_refused(table, monkeypatch):
    monkeypatch.setattr(reader, "_petastorm_blocks", lambda table, files: iter(()))
    with pytest.raises(DataError, match=r"split=train/part-00000.parquet has no rows, in 20 attempts to read it"):
        all_rows(table)


def test_more_workers_than_row_groups_each_get_their_rows(tmp_path):
    table = write_table(tmp_path, {"train": 40}, rows_per_file=40)
    read = [len(load(Shard(table=table, split="train", rows=shard(40, rank, 4), stream=IN_MEMORY))[1]) for rank in range(4)]
    assert read == [10, 10, 10, 10]


def test_a_table_missing_on_a_node_is_reported_as_not_visible_instead_of_damaged(table, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_VISIBLE_WITHIN_SECONDS", 0.1)
    elsewhere = Table(str(tmp_path / "elsewhere"), table.manifest)
    with pytest.raises(DataError, match=r"has no folder .*/elsewhere, which the driver has; ingest.tables_uri must be visible"):
        list(read_blocks(elsewhere, "train", RowRange(0, 10)))


def test_a_seed_determines_the_order_and_zero_is_a_valid_seed(table):
    def order(seed):
        return [
            row for images, _ in read_blocks(table, "train", RowRange(0, ROWS), order_seed=seed) for row in fingerprints(images)
        ]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != all_rows(table)


def epochs_of(table, stream, steps, batch, epochs, seed=3, first_epoch=0, rows=None):
    part = Shard(table=table, split="train", rows=rows or RowRange(0, ROWS), stream=stream)
    data = TrainingData(part, steps=steps, batch_size=batch, seed=seed)
    dataset = data.dataset()
    assert len(dataset) == steps
    found = []
    for epoch in range(first_epoch, first_epoch + epochs):
        data.begin(epoch)
        batches = [fingerprints(images) for images, _ in dataset]
        assert [len(rows_of_batch) for rows_of_batch in batches] == [batch] * steps
        found.append([row for rows_of_batch in batches for row in rows_of_batch])
    return found


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
def test_an_epoch_contains_every_row_at_most_once_and_all_but_the_last_partial_batch(table, stream):
    for epoch in epochs_of(table, stream, steps=16, batch=64, epochs=3):
        assert len(set(epoch)) == len(epoch) == 16 * 64
        assert set(epoch) <= set(all_rows(table))


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
def test_every_epoch_has_a_different_order_and_the_same_seed_repeats_it(table, stream):
    first = epochs_of(table, stream, steps=16, batch=64, epochs=3)
    assert first[0] != first[1] != first[2] != first[0]
    assert epochs_of(table, stream, steps=16, batch=64, epochs=3) == first
    assert epochs_of(table, stream, steps=16, batch=64, epochs=1, seed=4)[0] != first[0]
    assert epochs_of(table, stream, steps=16, batch=64, epochs=1, first_epoch=2)[0] == first[2]


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
def test_the_orders_of_successive_epochs_are_uncorrelated(table, stream):
    first, second = epochs_of(table, stream, steps=16, batch=65, epochs=2)
    position = {row: index for index, row in enumerate(first)}
    both = np.array([(position[row], index) for index, row in enumerate(second) if row in position])
    # For independent orders of 1,040 rows the standard deviation is 0.03; a streamed order mixes only nearby row groups.
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.25


def test_a_batch_stays_as_it_is_while_later_ones_arrive(table):
    part = Shard(table=table, split="train", rows=RowRange(0, ROWS), stream=STREAMED)
    held, arrived = [], []
    # TensorFlow uses the memory of the rows that left the shuffle buffer.
    for images, labels in TrainingData(part, steps=64, batch_size=16, seed=3).dataset():
        held.append((images, labels))
        arrived.append((images.numpy().copy(), labels.numpy().copy()))
    for batch, copies in zip(held, arrived, strict=True):
        for values, copy in zip(batch, copies, strict=True):
            np.testing.assert_array_equal(values, copy)


def test_streaming_stays_within_the_reported_memory_bound_for_any_number_of_rows(tmp_path):
    bounds = []
    for rows in (1000, 4000):
        table = write_table(tmp_path / str(rows), {"train": rows}, rows_per_file=25, shape=(32, 32, 3))
        part = Shard(table=table, split="train", rows=RowRange(0, rows), stream=STREAMED)
        dataset = TrainingData(part, steps=rows // 50, batch_size=50, seed=3).dataset()
        # Traces allocations by NumPy, but not by Arrow and TensorFlow.
        tracemalloc.start()
        try:
            assert sum(len(labels) for _, labels in dataset) == rows
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        bounds.append(part.held_bytes(batch_size=50))
        # A buffer of 128 rows, and the 50 that leave it at a time.
        assert (128 + 50) * 3072 < peak < bounds[-1] + 500_000
    assert bounds[0] == bounds[1] < 4000 * 3072 / 2


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
def test_labels_are_evenly_distributed_over_an_epoch(table, stream):
    data = TrainingData(Shard(table=table, split="train", rows=RowRange(0, ROWS), stream=stream), steps=16, batch_size=65, seed=3)
    labels = np.concatenate([labels for _, labels in data.dataset().as_numpy_iterator()])
    window = 130
    for label in range(4):
        share = (labels == label).mean()
        shares = np.convolve(labels == label, np.ones(window) / window, "valid")
        # Among hundreds of random windows, none deviates by more than four standard deviations.
        assert np.abs(shares - share).max() < 4 * np.sqrt(share * (1 - share) / window)


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_evaluation_sees_every_row_exactly_once_in_each_pass(table, stream, workers):
    rows = table.manifest.rows("test")
    shards = [
        EvaluationData(Shard(table=table, split="test", rows=shard(rows, rank, workers), stream=stream))
        for rank in range(workers)
    ]
    for _ in range(2):
        seen = [row for data in shards for images, _ in data.batches(32) for row in fingerprints(images)]
        assert sorted(seen) == sorted(all_rows(table, "test"))


def test_a_missing_file_is_reported_with_the_remedy(tmp_path):
    table = write_table(tmp_path, {"train": 100})
    (tmp_path / "split=train" / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match="delete the folder and ingest again"):
        list(read_blocks(table, "train", RowRange(0, 100)))


def test_a_file_that_appears_late_on_a_mounted_store_is_read(tmp_path):
    table = write_table(tmp_path / "t", {"train": 100})
    part, away = tmp_path / "t" / "split=train" / "part-00001.parquet", tmp_path / "away"
    part.rename(away)
    timer = threading.Timer(0.5, lambda: away.rename(part))
    timer.start()
    assert sum(len(labels) for _, labels in read_blocks(table, "train", RowRange(0, 100))) == 100
    timer.join()


def test_a_truncated_file_is_reported_with_the_remedy(tmp_path):
    table = write_table(tmp_path, {"train": 100})
    part = tmp_path / "split=train" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(DataError, match="delete the folder and ingest again"):
        list(read_blocks(table, "train", RowRange(0, 100)))


def test_a_single_changed_bit_is_detected_when_the_file_is_read(tmp_path):
    table = write_table(tmp_path, {"train": 100})
    part = tmp_path / "split=train" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    # The first file is intact.
    assert len(next(iter(read_blocks(table, "train", RowRange(0, 50))))[1]) == 50
    with pytest.raises(DataError, match=r"part-00001\.parquet is not as it was written"):
        list(read_blocks(table, "train", RowRange(0, 100)))


def test_a_file_that_contradicts_the_manifest_is_named(tmp_path):
    table = write_table(tmp_path, {"train": 100})
    split = table.manifest.splits["train"]
    files = (split.files[0], dataclasses.replace(split.files[1], rows=30))
    manifest = dataclasses.replace(table.manifest, splits={"train": dataclasses.replace(split, files=files)})
    with pytest.raises(DataError, match=r"part-00001\.parquet has 50 rows where the manifest says 30"):
        list(read_blocks(Table(table.uri, manifest), "train", RowRange(0, 80)))


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def next_to_the_file(part, metadata, columns):
    for folder in (part.parent, part.parents[1]):
        for name in ("_common_metadata", "_metadata"):
            pq.write_metadata(columns.schema.with_metadata(metadata), folder / name)


def in_the_footer(part, metadata, columns):
    pq.write_table(columns.replace_schema_metadata(metadata), part)


def in_a_folder_named_like_the_file(part, metadata, columns):
    part.unlink()
    part.mkdir()
    pq.write_table(columns, part / "part.parquet")
    pq.write_metadata(columns.schema.with_metadata(metadata), part / "_common_metadata")


@pytest.mark.parametrize("rows_per_file", [50, 100], ids=["two files", "one file"])
@pytest.mark.parametrize("location", [next_to_the_file, in_the_footer, in_a_folder_named_like_the_file])
def test_a_pickled_schema_in_a_foreign_table_is_never_unpickled(tmp_path, location, rows_per_file):
    table = write_table(tmp_path / "t", {"train": 100}, rows_per_file=rows_per_file)
    part = tmp_path / "t" / "split=train" / "part-00000.parquet"
    pickled = pickle.dumps(Bomb(tmp_path / "trace"), 0)
    metadata = {b"dataset-toolkit.unischema.v1": pickled, b"dataset-toolkit.num_row_groups_per_file.v1": b"{}"}
    location(part, metadata, pq.ParquetFile(part).read())
    if location is in_the_footer:
        # The attacker controls the manifest, too.
        split = table.manifest.splits["train"]
        first = dataclasses.replace(split.files[0], sha256=fingerprint(part).sha256)
        split = dataclasses.replace(split, files=(first, *split.files[1:]))
        table = Table(table.uri, dataclasses.replace(table.manifest, splits={"train": split}))
    if location is in_a_folder_named_like_the_file:
        with pytest.raises(DataError, match=r"part-00000\.parquet cannot be read \(Is a directory\)"):
            list(read_blocks(table, "train", RowRange(0, 100)))
    else:
        assert sum(len(labels) for _, labels in read_blocks(table, "train", RowRange(0, 100))) == 100
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickled)
    assert (tmp_path / "trace").exists()
