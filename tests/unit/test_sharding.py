import pytest

from pipelines.data.stream.sharding import FilePart, RowRange, file_parts, fitting_batch, shard, steps_per_epoch
from pipelines.data.table.schema import TableFile
from pipelines.errors import DataError


@pytest.mark.parametrize("rows", [1, 7, 100, 54_001])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_shards_are_disjoint_cover_all_rows_and_differ_by_at_most_one(rows, workers):
    shards = [shard(rows, rank, workers) for rank in range(workers)]
    assert [row for part in shards for row in range(part.start, part.stop)] == list(range(rows))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("rows", [256, 257, 1000, 54_000])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_shard_has_enough_rows_and_less_than_one_global_batch_is_skipped(rows, workers):
    steps = steps_per_epoch(rows, workers, 64)
    assert all(len(shard(rows, rank, workers)) >= steps * 64 for rank in range(workers))
    assert 0 <= rows - steps * workers * 64 < workers * 64


@pytest.mark.parametrize(
    ("rows", "workers", "batch", "parts", "fitting"),
    [(256, 2, 128, 1, 128), (255, 2, 128, 1, 127), (49, 1, 100, 1, 49), (49, 3, 100, 5, 15), (2, 2, 64, 1, 1)],
)
def test_a_table_smaller_than_a_global_batch_takes_a_smaller_batch(rows, workers, batch, parts, fitting):
    assert fitting_batch(rows, workers, batch, parts) == fitting
    assert steps_per_epoch(rows, workers, fitting) >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 3, 64, 1), "the table has 2 training rows, too few for a batch on each of 3 workers; lower launch.workers"),
        (
            (20, 3, 64, 8),
            "the table has 20 training rows, too few for a batch in 8 parts on each of 3 workers; lower launch.workers or ",
        ),
    ],
)
def test_too_few_rows_for_the_workers_are_rejected_with_the_numbers(arguments, message):
    with pytest.raises(DataError) as caught:
        fitting_batch(*arguments)
    assert str(caught.value).startswith(message)


def test_fewer_rows_than_one_global_batch_are_rejected_with_the_arithmetic():
    with pytest.raises(DataError, match=r"255 training rows, fewer than one global batch of 256 \(2 workers x 128\)"):
        steps_per_epoch(255, 2, 128)


def test_a_range_is_split_at_file_boundaries():
    files = [TableFile(path=name, rows=10, num_bytes=1, sha256="") for name in ("a", "b", "c")]
    assert file_parts(files, RowRange(5, 25)) == (FilePart("a", 5, 10, 10), FilePart("b", 0, 10, 10), FilePart("c", 0, 5, 10))


def test_one_row_group_serves_any_number_of_workers():
    files = [TableFile(path="only", rows=10, num_bytes=1, sha256="")]
    parts = [file_parts(files, shard(10, rank, 4)) for rank in range(4)]
    assert [(part.start, part.stop) for (part,) in parts] == [(0, 2), (2, 5), (5, 7), (7, 10)]
