import numpy as np
import pytest

from pipelines.config import StreamConfig
from pipelines.data.stream import shuffle
from pipelines.data.stream.shuffle import ShuffleBuffer, buffer_rows, leaving_rows, shuffled
from pipelines.data.table.row_parts import Part

IMAGE = Part("image", (5, 3, 1), "uint8")
PARTS = (IMAGE, Part("target", (2,), "float32"), Part("weight", (), "float32"))
ROWS, BATCH = 1000, 8


def rows_from(start, stop):
    """Rows whose parts all hold their number."""
    numbers = np.arange(start, stop)
    images = np.zeros((len(numbers), 15), np.uint8)
    images[:, 0], images[:, -1] = numbers % 256, numbers // 256
    return images.reshape(-1, 5, 3, 1), np.stack([numbers, -numbers], 1).astype(np.float32), numbers.astype(np.float32)


def blocks_of(sizes):
    ends = np.cumsum(sizes)
    return [rows_from(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def epoch(sizes=(50,) * (ROWS // 50), *, capacity=64, steps=ROWS // BATCH, seed=1):
    stream = StreamConfig(shuffle_buffer_rows=capacity)
    return shuffled(
        iter(blocks_of(sizes)), ShuffleBuffer(stream, BATCH, PARTS, np.random.default_rng(seed)), steps=steps, batch_size=BATCH
    )


def numbers(blocks):
    return np.concatenate([weights.reshape(-1) for _, _, weights in blocks]).astype(int)


@pytest.mark.parametrize("capacity", [1, 16, 63, 64, 999, 1000, 5000])
@pytest.mark.parametrize("sizes", [(50,) * 20, (1,) * 7 + (993,), (997, 3), (63, 64, 65, 808)])
def test_every_row_leaves_once_with_all_of_its_parts(sizes, capacity):
    blocks = list(epoch(sizes, capacity=capacity))
    for images, targets, weights in blocks:
        assert images.shape[1:] == (BATCH, 5, 3, 1)
        assert targets.shape[1:] == (BATCH, 2)
        number = weights.astype(int)
        np.testing.assert_array_equal(images[..., 0, 0, 0].astype(int) + 256 * images[..., -1, -1, 0].astype(int), number)
        np.testing.assert_array_equal(targets, np.stack([number, -number], -1))
    assert sorted(numbers(blocks)) == list(range(ROWS))


def test_rows_beyond_the_steps_are_skipped():
    left = numbers(epoch(steps=100))
    assert len(set(left)) == len(left) == 100 * BATCH


def test_the_seed_determines_the_order():
    assert numbers(epoch()).tolist() == numbers(epoch()).tolist()
    assert numbers(epoch()).tolist() != numbers(epoch(seed=2)).tolist()


def test_rows_that_left_stay_as_they_are_while_others_arrive():
    held, copies = [], []
    for block in epoch():
        held.append(block)
        copies.append([values.copy() for values in block])
    assert len(held) > 10
    for block, copied in zip(held, copies, strict=True):
        for values, copy in zip(block, copied, strict=True):
            np.testing.assert_array_equal(values, copy)


def test_tensorflow_can_use_the_memory_of_each_part():
    assert {values.ctypes.data % 64 for block in epoch() for values in block} == {0}


def test_any_row_of_a_full_buffer_may_leave_in_any_place():
    rounds, places = 3000, np.zeros((80, 16))
    for seed in range(rounds):
        buffer = ShuffleBuffer(StreamConfig(shuffle_buffer_rows=64), BATCH, PARTS, np.random.default_rng(seed))
        buffer.add(rows_from(0, 64))
        buffer.pop(16)
        buffer.add(rows_from(64, 80))
        places[buffer.pop(16)[2].astype(int), np.arange(16)] += 1
    # Three quarters of the first rows are still there, and all of those that took the others' slots.
    for rows, share in ((places[:64], 0.75), (places[64:], 1)):
        expected = rounds * share / 64
        assert np.abs(rows.mean(axis=0) - expected).max() < 5 * np.sqrt(expected / len(rows))
        assert np.abs(rows.mean(axis=1) - expected).max() < 5 * np.sqrt(expected / 16)


def test_whole_batches_leave_and_at_most_half_of_the_buffer(monkeypatch):
    monkeypatch.setattr(shuffle, "_LEAVING_BYTES", 100 * IMAGE.num_bytes)
    assert leaving_rows(10_000, 8, IMAGE) == 96
    assert leaving_rows(100, 8, IMAGE) == 48
    assert leaving_rows(16, 8, IMAGE) == 8
    assert leaving_rows(2000, 1000, IMAGE) == 1000
    assert buffer_rows(StreamConfig(shuffle_buffer_rows=10), 8, IMAGE) == 16
