"""Training images bent a little, another way each time: shifted, turned, stretched, sheared, warped, mirrored.

A network that never sees the same image twice learns its rows by heart more slowly than what they have in common. Everything is
one resampling of a whole batch inside TensorFlow, so it needs neither Python nor the interpreter's lock while a network trains.

An image's change is a function of a key and its place in the batch; a key is a function of seed, epoch and step
(`epoch_keys`). So an epoch can be repeated, and gone on with at any step, without what came before it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines.config.training import TrainingConfig

# Simard et al. 2003 smooth displacements of 29 x 29 images by a Gaussian with a standard deviation of 4 pixels.
_ELASTIC_SMOOTHNESS = 4 / 29
# Points along an axis at which displacements are drawn: two in that length, where more would make no difference.
_ELASTIC_GRID = 15
# Tell the random numbers of warping and of mirroring from those of the other changes.
_ELASTIC_STREAM = 1
_FLIP_STREAM = 2
_KEYS = 0x6175676D


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The largest change of each kind; an image's own is drawn uniformly between it and its opposite. 0 for none."""

    shift: float = 0.0
    """Along each axis, as a share of the image's height or width."""
    rotation: float = 0.0
    """Degrees."""
    scale: float = 0.0
    """Along each axis: from 1 - scale to 1 + scale times as large."""
    shear: float = 0.0
    """How far rows slide past each other, in rows a row: the tangent of the angle."""
    elastic: float = 0.0
    """Standard deviation of a smooth displacement of each pixel, as a share of height and width (Simard et al. 2003, Best
    Practices for Convolutional Neural Networks, doi:10.1109/ICDAR.2003.1227801; their strongest is 0.05)."""
    flip: bool = False
    """Whether half of the images are mirrored left to right."""

    @property
    def changes_anything(self) -> bool:
        return any((self.shift, self.rotation, self.scale, self.shear, self.elastic, self.flip))


def from_settings(training: TrainingConfig) -> Augmentation | None:
    """What a recipe asks for, or None where it leaves images as they are."""
    found = Augmentation(
        shift=training.augment_shift,
        rotation=training.augment_rotation,
        scale=training.augment_scale,
        shear=training.augment_shear,
        elastic=training.augment_elastic,
        flip=training.augment_flip,
    )
    return found if found.changes_anything else None


def epoch_keys(seed: int, epoch: int, steps: int) -> npt.NDArray[np.int64]:
    """A key for each batch of an epoch, [steps, 2]."""
    return np.random.default_rng((seed, epoch, _KEYS)).integers(2**62, size=(steps, 2))


def augmented(images: tf.Tensor, key: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Each image of a batch changed in its own way.

    Between pixels values are interpolated linearly, uint8 is rounded, and what comes in from outside is 0.

    Args:
        images: [batch, height, width, channels], uint8 or float32, source values.
        key: int64 [2], decides the changes.
        augmentation: how large they may be.

    Returns:
        images of the same shape and dtype.
    """
    values = tf.cast(images, tf.float32)
    if augmentation.elastic:
        changed = _sampled(values, *_warped_places(values, key, augmentation))
    else:
        changed = tf.raw_ops.ImageProjectiveTransformV3(
            images=values,
            transforms=tf.concat([_affine_maps(values, key, augmentation), tf.zeros((tf.shape(values)[0], 2))], axis=1),
            output_shape=tf.shape(values)[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )
    changed = tf.ensure_shape(changed, images.shape)
    return tf.cast(tf.round(changed), images.dtype) if images.dtype.is_integer else changed


def _affine_maps(images: tf.Tensor, key: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Where the pixel at (x, y) of each changed image comes from, [batch, 6]: x' = a x + b y + c, y' = d x + e y + f."""
    batch, height, width, _ = tf.unstack(tf.shape(images))
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    turn, slide, tall, wide, down, right = tf.unstack(tf.random.stateless_uniform((6, batch), key, -1.0, 1.0))
    turn *= math.radians(augmentation.rotation)
    cosine, sine, slide = tf.cos(turn), tf.sin(turn), slide * augmentation.shear
    # An image twice as large is one whose places are half as far from the centre.
    wide, tall = 1 / (1 + wide * augmentation.scale), 1 / (1 + tall * augmentation.scale)
    if augmentation.flip:
        seed = tf.random.experimental.stateless_fold_in(key, _FLIP_STREAM)
        wide *= tf.sign(tf.random.stateless_uniform((batch,), seed, -1.0, 1.0))
    a, b = cosine * wide, (cosine * slide - sine) * tall
    d, e = sine * wide, (sine * slide + cosine) * tall
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    c = middle_x - a * middle_x - b * middle_y + right * (augmentation.shift * width)
    f = middle_y - d * middle_x - e * middle_y + down * (augmentation.shift * height)
    return tf.stack([a, b, c, d, e, f], axis=1)


def _warped_places(images: tf.Tensor, key: tf.Tensor, augmentation: Augmentation) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_affine_maps`, with an elastic displacement of its own for each pixel: x' and y', each [batch, height, width]."""
    batch = tf.shape(images)[0]
    height, width = images.shape[1:3]
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    places = np.stack([x, y, np.ones_like(x)]).astype(np.float32)
    maps = tf.reshape(_affine_maps(images, key, augmentation), (-1, 2, 3))
    affine = tf.reshape(tf.matmul(maps, tf.broadcast_to(places, (batch, *places.shape))), (-1, 2, height, width))
    seed = tf.random.experimental.stateless_fold_in(key, _ELASTIC_STREAM)
    noise = tf.random.stateless_uniform((batch, 2, _ELASTIC_GRID, _ELASTIC_GRID), seed, -math.sqrt(3), math.sqrt(3))
    smooth = tf.matmul(tf.matmul(_smoothing(height), noise), _smoothing(width), transpose_b=True)
    sizes = np.array([width, height], np.float32).reshape(2, 1, 1)
    x, y = tf.unstack(affine + smooth * (augmentation.elastic * sizes), axis=1)
    return x, y


def _smoothing(length: int) -> npt.NDArray[np.float32]:
    """A matrix [length, grid] that spreads white noise from a coarse grid by a Gaussian and keeps its standard deviation."""
    places, grid = np.linspace(0, 1, length), np.linspace(0, 1, _ELASTIC_GRID)
    weights = np.exp(-0.5 * ((places[:, np.newaxis] - grid) / _ELASTIC_SMOOTHNESS) ** 2)
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=1, keepdims=True)), np.float32)


def _sampled(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Images [batch, height, width, channels] float32 read at places between their pixels, x and y [batch, height, width]."""
    # A border of zeros makes every place outside one inside.
    bordered = tf.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    batch, height, width, channels = tf.unstack(tf.shape(bordered))
    x = tf.clip_by_value(x + 1, 0.0, tf.cast(width, tf.float32) - 1.001)
    y = tf.clip_by_value(y + 1, 0.0, tf.cast(height, tf.float32) - 1.001)
    left, top = tf.floor(x), tf.floor(y)
    right_share, lower_share = (x - left)[..., tf.newaxis], (y - top)[..., tf.newaxis]
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * (height * width)
    place = first + tf.cast(top, tf.int32) * width + tf.cast(left, tf.int32)
    pixels = tf.reshape(bordered, (-1, channels))

    def line(offset: tf.Tensor | int) -> tf.Tensor:
        from_left, from_right = tf.gather(pixels, place + offset), tf.gather(pixels, place + offset + 1)
        return from_left + right_share * (from_right - from_left)

    upper, lower = line(0), line(width)
    return upper + lower_share * (lower - upper)
