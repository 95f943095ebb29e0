"""Random augmentation of training images: shift, rotation, scale, shear, elastic distortion, flip.

A network that never sees the same image twice overfits later. All transformations of a batch are one resampling in TensorFlow,
which needs neither Python nor the GIL while a network trains.

An image's transformation depends only on a key and its position in the batch, and a key depends only on seed, epoch and step
(`epoch_keys`). So an epoch can be repeated, and resumed at any step, without the steps before.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipelines.config.training import TrainingConfig

# Simard et al. 2003 smooth displacements of 29 x 29 images with a Gaussian of standard deviation 4 pixels.
_ELASTIC_SMOOTHNESS = 4 / 29
# Grid points per axis at which displacements are drawn: two per standard deviation; more make no difference.
_ELASTIC_GRID = 15
# Separate random streams for elastic distortion and flips.
_ELASTIC_STREAM = 1
_FLIP_STREAM = 2
_KEY_STREAM = 0x6175676D


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Largest transformation of each kind; those of an image are drawn uniformly from both directions. 0 for none."""

    shift: float = 0.0
    """Along each axis, as a fraction of the image's height or width."""
    rotation: float = 0.0
    """Degrees."""
    scale: float = 0.0
    """Along each axis: by a factor from 1 - scale to 1 + scale."""
    shear: float = 0.0
    """Horizontal displacement per row: the tangent of the angle."""
    elastic: float = 0.0
    """Standard deviation of a smooth displacement of each pixel, as a fraction of height and width (Simard et al. 2003, Best
    Practices for Convolutional Neural Networks, doi:10.1109/ICDAR.2003.1227801; their largest is 0.05)."""
    flip: bool = False
    """Whether half of the images are flipped left to right."""

    @property
    def changes_anything(self) -> bool:
        return any((self.shift, self.rotation, self.scale, self.shear, self.elastic, self.flip))


def from_settings(training: TrainingConfig) -> Augmentation | None:
    """The augmentation configured in the settings, or None if there is none."""
    augmentation = Augmentation(
        shift=training.augment_shift,
        rotation=training.augment_rotation,
        scale=training.augment_scale,
        shear=training.augment_shear,
        elastic=training.augment_elastic,
        flip=training.augment_flip,
    )
    return augmentation if augmentation.changes_anything else None


def epoch_keys(seed: int, epoch: int, steps: int) -> npt.NDArray[np.int64]:
    """One key per batch of an epoch, [steps, 2]."""
    return np.random.default_rng((seed, epoch, _KEY_STREAM)).integers(2**62, size=(steps, 2))


def augmented(images: tf.Tensor, key: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Transform each image of a batch independently.

    Values are interpolated linearly between pixels, uint8 is rounded, and pixels from outside the image are 0.

    Args:
        images: [batch, height, width, channels], uint8 or float32, source values.
        key: int64 [2], determines the transformations.
        augmentation: limits of the transformations.

    Returns:
        Images of the same shape and dtype.
    """
    values = tf.cast(images, tf.float32)
    if augmentation.elastic:
        changed = _sampled(values, *_distorted_coordinates(values, key, augmentation))
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
    """Source coordinates of the pixel at (x, y) of each result, [batch, 6]: x' = a x + b y + c, y' = d x + e y + f."""
    batch, height, width, _ = tf.unstack(tf.shape(images))
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    turn, slide, tall, wide, down, right = tf.unstack(tf.random.stateless_uniform((6, batch), key, -1.0, 1.0))
    turn *= math.radians(augmentation.rotation)
    cosine, sine, slide = tf.cos(turn), tf.sin(turn), slide * augmentation.shear
    # The map goes from the result to the source, so a factor of 2 halves distances from the center.
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


def _distorted_coordinates(images: tf.Tensor, key: tf.Tensor, augmentation: Augmentation) -> tuple[tf.Tensor, tf.Tensor]:
    """Source coordinates of `_affine_maps` plus an elastic displacement per pixel: x' and y', each [batch, height, width]."""
    batch = tf.shape(images)[0]
    height, width = images.shape[1:3]
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    coordinates = np.stack([x, y, np.ones_like(x)]).astype(np.float32)
    maps = tf.reshape(_affine_maps(images, key, augmentation), (-1, 2, 3))
    affine = tf.reshape(tf.matmul(maps, tf.broadcast_to(coordinates, (batch, *coordinates.shape))), (-1, 2, height, width))
    seed = tf.random.experimental.stateless_fold_in(key, _ELASTIC_STREAM)
    noise = tf.random.stateless_uniform((batch, 2, _ELASTIC_GRID, _ELASTIC_GRID), seed, -math.sqrt(3), math.sqrt(3))
    smooth = tf.matmul(tf.matmul(_smoothing(height), noise), _smoothing(width), transpose_b=True)
    sizes = np.array([width, height], np.float32).reshape(2, 1, 1)
    x, y = tf.unstack(affine + smooth * (augmentation.elastic * sizes), axis=1)
    return x, y


def _smoothing(length: int) -> npt.NDArray[np.float32]:
    """A matrix [length, grid] that interpolates white noise on a coarse grid with a Gaussian, keeping its standard deviation."""
    positions, grid = np.linspace(0, 1, length), np.linspace(0, 1, _ELASTIC_GRID)
    weights = np.exp(-0.5 * ((positions[:, np.newaxis] - grid) / _ELASTIC_SMOOTHNESS) ** 2)
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=1, keepdims=True)), np.float32)


def _sampled(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Bilinear samples of images [batch, height, width, channels] float32 at coordinates x and y [batch, height, width]."""
    # With a border of zeros, clipped coordinates read 0 outside the image.
    bordered = tf.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    batch, height, width, channels = tf.unstack(tf.shape(bordered))
    x = tf.clip_by_value(x + 1, 0.0, tf.cast(width, tf.float32) - 1.001)
    y = tf.clip_by_value(y + 1, 0.0, tf.cast(height, tf.float32) - 1.001)
    left, top = tf.floor(x), tf.floor(y)
    right_weight, lower_weight = (x - left)[..., tf.newaxis], (y - top)[..., tf.newaxis]
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * (height * width)
    index = first + tf.cast(top, tf.int32) * width + tf.cast(left, tf.int32)
    pixels = tf.reshape(bordered, (-1, channels))

    def line(offset: tf.Tensor | int) -> tf.Tensor:
        from_left, from_right = tf.gather(pixels, index + offset), tf.gather(pixels, index + offset + 1)
        return from_left + right_weight * (from_right - from_left)

    upper, lower = line(0), line(width)
    return upper + lower_weight * (lower - upper)
