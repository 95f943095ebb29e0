import collections

import numpy as np
import pytest
from synthetic import write_table

from pipelines.config import StreamConfig
from pipelines.errors import DataError
from pipelines.schema import Table
from pipelines.stream.batches import EvaluationData, Shard, TrainingData, load
from pipelines.stream.reader import read_blocks
from pipelines.stream.sharding import RowRange, shard

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


def test_no_row_is_lost_in_a_hundred_readings_of_small_files(table):
    for _ in range(100):
        assert sum(len(labels) for _, labels in read_blocks(table, "train", RowRange(3, ROWS - 3))) == ROWS - 6


def test_more_workers_than_row_groups_each_get_their_rows(tmp_path):
    table = write_table(tmp_path, {"train": 40}, rows_per_file=40)
    read = [len(load(Shard(table=table, split="train", rows=shard(40, rank, 4), stream=IN_MEMORY))[1]) for rank in range(4)]
    assert read == [10, 10, 10, 10]


def test_a_seed_gives_one_order_and_zero_is_a_seed(table):
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
def test_an_epoch_holds_every_row_at_most_once_and_all_but_the_last_partial_batch(table, stream):
    for epoch in epochs_of(table, stream, steps=16, batch=64, epochs=3):
        assert len(set(epoch)) == len(epoch) == 16 * 64
        assert set(epoch) <= set(all_rows(table))


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
def test_every_epoch_has_another_order_and_the_same_seed_repeats_it(table, stream):
    first = epochs_of(table, stream, steps=16, batch=64, epochs=3)
    assert first[0] != first[1] != first[2] != first[0]
    assert epochs_of(table, stream, steps=16, batch=64, epochs=3) == first
    assert epochs_of(table, stream, steps=16, batch=64, epochs=1, seed=4)[0] != first[0]
    assert epochs_of(table, stream, steps=16, batch=64, epochs=1, first_epoch=2)[0] == first[2]


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
def test_successive_epochs_are_not_correlated_in_order(table, stream):
    first, second = epochs_of(table, stream, steps=16, batch=65, epochs=2)
    position = {row: place for place, row in enumerate(first)}
    both = np.array([(position[row], place) for place, row in enumerate(second) if row in position])
    # Two independent orders of 1,040 rows differ from 0 by 0.03 (one standard deviation); a streamed order mixes row groups.
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.25


@pytest.mark.parametrize("stream", [IN_MEMORY, STREAMED], ids=["memory", "streamed"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_evaluation_sees_every_row_exactly_once_however_often_it_is_asked(table, stream, workers):
    rows = table.manifest.rows("test")
    shards = [
        EvaluationData(Shard(table=table, split="test", rows=shard(rows, rank, workers), stream=stream))
        for rank in range(workers)
    ]
    for _ in range(2):
        seen = [row for data in shards for images, _ in data.batches(32) for row in fingerprints(images)]
        assert sorted(seen) == sorted(all_rows(table, "test"))


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    table = write_table(tmp_path, {"train": 100})
    (tmp_path / "split=train" / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match="delete the folder and ingest again"):
        list(read_blocks(table, "train", RowRange(0, 100)))


def test_a_truncated_file_is_named_with_the_remedy(tmp_path):
    table = write_table(tmp_path, {"train": 100})
    part = tmp_path / "split=train" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(DataError, match="delete the folder and ingest again"):
        list(read_blocks(table, "train", RowRange(0, 100)))


def test_a_file_with_other_rows_than_the_manifest_says_is_named(tmp_path):
    table = write_table(tmp_path / "t", {"train": 100})
    other = write_table(tmp_path / "o", {"train": 100}, rows_per_file=30)
    (tmp_path / "o" / "split=train" / "part-00001.parquet").rename(tmp_path / "t" / "split=train" / "part-00001.parquet")
    assert isinstance(other, Table)
    with pytest.raises(DataError, match=r"part-00001\.parquet holds 30 rows where the manifest says 50"):
        list(read_blocks(table, "train", RowRange(0, 100)))
