"""Augmentation of batches, and its use in the input pipeline."""

import numpy as np
import pytest
import tensorflow as tf
from support.synthetic import images_and_labels, write_table

from pipelines.config import StreamConfig
from pipelines.config.training import TrainingConfig
from pipelines.data.stream import augment
from pipelines.data.stream.augment import Augmentation, augmented
from pipelines.data.stream.batches import EvaluationData, Shard, TrainingData
from pipelines.data.stream.sharding import RowRange

KEY = tf.constant([3, 4], tf.int64)
EVERYTHING = Augmentation(shift=0.1, rotation=15.0, scale=0.15, shear=0.2, elastic=0.03, flip=True)


def changed(images, key=KEY, **changes):
    return augmented(tf.constant(images), key, Augmentation(**changes)).numpy()


def dot(size=21, row=10, column=10, batch=200):
    """A soft spot, whose center of mass can be measured to a fraction of a pixel."""
    y, x = np.mgrid[:size, :size]
    spot = 250 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 4)
    return np.tile(spot[np.newaxis, :, :, np.newaxis], (batch, 1, 1, 1)).astype(np.float32)


def centers(images):
    """Row and column of each image's center of mass, [batch, 2]."""
    mass = images[..., 0] / images[..., 0].sum(axis=(1, 2), keepdims=True)
    positions = np.arange(images.shape[1])
    return np.stack([(mass.sum(axis=2) * positions).sum(axis=1), (mass.sum(axis=1) * positions).sum(axis=1)], axis=1)


@pytest.mark.parametrize("shape", [(12, 12, 1), (9, 14, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("elastic", [0.0, 1e-9])
def test_without_changes_every_pixel_stays_the_same(shape, dtype, elastic):
    images = images_and_labels(8, (12, 12, 1))[0][:, : shape[0]].repeat(2, axis=2)[:, :, : shape[1]].repeat(shape[2], axis=3)
    images = images.astype(dtype)
    found = changed(images, elastic=elastic)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, images, atol=1e-3)


@pytest.mark.parametrize("elastic", [0.0, 1e-9], ids=["projected", "gathered"])
def test_a_shift_reaches_its_limit_in_all_directions(elastic):
    moved = centers(changed(dot(), shift=0.2, elastic=elastic)) - 10
    assert np.abs(moved).max() == pytest.approx(0.2 * 21, rel=0.05)
    assert abs(moved.mean()) < 0.5
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


@pytest.mark.parametrize("elastic", [0.0, 1e-9], ids=["projected", "gathered"])
def test_a_rotation_is_about_the_center_in_both_directions(elastic):
    moved = centers(changed(dot(column=16), rotation=30.0, elastic=elastic)) - 10
    np.testing.assert_allclose(np.hypot(*moved.T), 6, atol=0.1)
    degrees = np.degrees(np.arctan2(*moved.T))
    assert degrees.max() == pytest.approx(30, abs=1)
    assert degrees.min() == pytest.approx(-30, abs=1)


def test_a_scale_stretches_height_and_width_independently():
    columns = centers(changed(dot(column=14), scale=0.25))[:, 1] - 10
    rows = centers(changed(dot(row=14), scale=0.25))[:, 0] - 10
    for distances in (columns, rows):
        assert distances.max() == pytest.approx(4 * 1.25, abs=0.1)
        assert distances.min() == pytest.approx(4 * 0.75, abs=0.1)
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2


def test_a_shear_moves_rows_horizontally_and_leaves_the_center_fixed():
    above, middle = centers(changed(dot(row=4), shear=0.5)) - 10, centers(changed(dot(), shear=0.5)) - 10
    np.testing.assert_allclose(middle, 0, atol=0.05)
    np.testing.assert_allclose(above[:, 0], -6, atol=0.1)
    assert np.abs(above[:, 1]).max() == pytest.approx(6 * 0.5, abs=0.1)


@pytest.mark.parametrize("elastic", [0.0, 1e-9], ids=["projected", "gathered"])
def test_a_flip_mirrors_about_half_of_the_images_left_to_right(elastic):
    images = images_and_labels(200)[0].astype(np.float32)
    found = changed(images, flip=True, elastic=elastic)
    mirrored = np.abs(found - images[:, :, ::-1]).max(axis=(1, 2, 3)) < 0.01
    kept = np.abs(found - images).max(axis=(1, 2, 3)) < 0.01
    assert (mirrored ^ kept).all()
    assert 70 < mirrored.sum() < 130


def test_an_elastic_distortion_has_its_standard_deviation_and_is_smooth():
    # The value of a pixel is its column, so the result shows where it came from.
    columns = np.broadcast_to(np.arange(31, dtype=np.float32)[:, np.newaxis], (400, 31, 31, 1))
    moved = (changed(columns, elastic=0.05) - columns)[:, 8:-8, 8:-8, 0]
    assert moved.std() == pytest.approx(0.05 * 31, rel=0.05)
    assert abs(moved.mean()) < 0.2
    middle = moved[:, 7, 7]
    assert np.corrcoef(middle, moved[:, 7, 8])[0, 1] > 0.9
    assert np.corrcoef(middle, moved[:, 8, 7])[0, 1] > 0.9
    assert abs(np.corrcoef(moved[:, 0, 0], moved[:, 14, 14])[0, 1]) < 0.2


def test_the_same_key_transforms_an_image_identically_and_another_key_differently():
    images = images_and_labels(8)[0]
    everything = {name: getattr(EVERYTHING, name) for name in ("shift", "rotation", "scale", "shear", "elastic", "flip")}
    first, again, other = (changed(images, tf.constant(key, tf.int64), **everything) for key in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert all((one != another).any() for one, another in zip(first, other, strict=True))


def test_settings_without_augmentation_yield_none():
    assert augment.from_settings(TrainingConfig()) is None
    assert augment.from_settings(TrainingConfig(augment_shear=0.1)) == Augmentation(shear=0.1)
    assert augment.from_settings(TrainingConfig(augment_flip=True)) == Augmentation(flip=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 330, "test": 60})


def training(table, stream, augmentation=EVERYTHING, seed=3):
    part = Shard(table=table, split="train", rows=RowRange(0, 330), stream=stream)
    return TrainingData(part, steps=10, batch_size=32, seed=seed, augmentation=augmentation)


def epoch(data, number, skip_steps=0):
    dataset = data.dataset(skip_steps)
    data.begin(number)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


STREAMS = pytest.mark.parametrize(
    "stream", [StreamConfig(), StreamConfig(memory_limit_mb=0, shuffle_buffer_rows=64)], ids=["memory", "streamed"]
)


@STREAMS
def test_an_epoch_is_reproducible_also_from_its_middle_and_the_next_one_differs(table, stream):
    whole, again = epoch(training(table, stream), 1), epoch(training(table, stream), 1)
    rest = epoch(training(table, stream), 1, skip_steps=4)
    for one, other in ((whole, again), (whole[4:], rest)):
        assert len(one) == len(other)
        assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(one, other, strict=True))
    plain, plain_next = (epoch(training(table, stream, None), number) for number in (1, 2))
    following = epoch(training(table, stream), 2)
    changes = {}
    for before, after in ((plain, whole), (plain_next, following)):
        for (images, labels), (bent, same_labels) in zip(before, after, strict=True):
            np.testing.assert_array_equal(labels, same_labels)
            assert bent.dtype == np.uint8
            for image, result in zip(images, bent, strict=True):
                changes.setdefault(image.tobytes(), []).append(result)
    twice = [results for results in changes.values() if len(results) == 2]
    assert len(twice) > 300
    assert all((first != second).any() for first, second in twice)


@STREAMS
def test_ranks_get_different_transformations(table, stream):
    keys = [augment.epoch_keys(seed, epoch=2, steps=10).tolist() for seed in (3, 4)]
    assert keys[0] != keys[1]
    assert len({tuple(key) for key in keys[0]}) == 10
    assert (epoch(training(table, stream, seed=3), 0)[0][0] != epoch(training(table, stream, seed=4), 0)[0][0]).any()


def test_evaluation_rows_are_never_transformed(table):
    rows = EvaluationData(Shard(table=table, split="test", rows=RowRange(0, 60), stream=StreamConfig()))
    np.testing.assert_array_equal(next(rows.batches(60))[0], images_and_labels(60, seed=1)[0])
