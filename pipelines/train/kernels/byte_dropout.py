"""Dropout (Srivastava et al. 2014, JMLR 15) that draws a random byte for each value instead of a float.

Keras draws a float and compares it with the rate, which takes a third of a small network's step on a CPU. A byte is exact if 256
times the rate is an integer, as for 0.25, 0.5 and 0.75; otherwise two bytes are drawn, which represent the rate to 1/65,536.
"""

import keras
import tensorflow as tf

_WORD_BITS = 32


def use_byte_dropout(model: keras.Model) -> list[str]:
    """Replace a network's dropout layers in place, and return their names.

    For training only: a saved model must not contain them.
    """
    layers = [layer for layer in model.layers if type(layer) is keras.layers.Dropout and not layer.noise_shape and layer.rate]
    for layer in layers:
        layer.__class__ = ByteDropout
    return [layer.name for layer in layers]


class ByteDropout(keras.layers.Dropout):
    """Keras' dropout with different random numbers from the same generator."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return inputs
        kind, bits = (tf.uint8, 8) if (self.rate * 2**8).is_integer() else (tf.uint16, 16)
        dropped = round(self.rate * 2**bits)
        per_word, shape = _WORD_BITS // bits, tf.shape(inputs)
        words = -(-tf.reduce_prod(shape) // per_word)
        # The generator counts its calls, and checkpoints keep the count.
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        bytes_drawn = tf.random.stateless_uniform([words], seed, minval=None, maxval=None, dtype=tf.uint32)
        bytes_drawn = tf.reshape(tf.bitcast(bytes_drawn, kind), [-1])[: tf.reduce_prod(shape)]
        kept = tf.cast(tf.reshape(bytes_drawn, shape) >= tf.constant(dropped, kind), inputs.dtype)
        # A plain product with zero would be NaN for an infinite or undefined value.
        return tf.math.multiply_no_nan(inputs, kept * tf.cast(2**bits / (2**bits - dropped), inputs.dtype))
