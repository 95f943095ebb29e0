"""A small CapsNet: capsules, which are groups of values, with dynamic routing by agreement.

    image          [batch, 28, 28, 1]
    convolution    [batch, 20, 20, 32]     32 kernels 9x9, no padding, relu
    capsules       [batch, 6, 6, 32]       32 kernels 9x9, stride 2, no padding: 144 capsules of 8 values, squashed
    votes          [batch, 10, 144, 16]    prediction of each capsule for each class, by an 8 x 16 matrix for each pair
    lengths        [batch, 10]             lengths of the class capsules after 3 routing iterations, each in [0, 1)
    probabilities  [batch, 10]             the lengths, divided by their sum

269,920 parameters for 28 x 28 x 1 and ten classes.

Sabour, Frosst and Hinton 2017, "Dynamic routing between capsules", arXiv:1710.09829. Their network has 256 kernels, 1,152
capsules, and a decoder that reconstructs the image from the capsules as a regularizer. The decoder is omitted here.

Squashing keeps a capsule's direction and scales its length below 1. A routing iteration weights each capsule's votes by a softmax
over classes, sums them to the class capsules, and increases the logits of votes that agree with the sum. Iterations before the
last only determine the weights; no gradient flows through their votes.

The loss is the paper's margin loss on `lengths`: the correct class should be longer than 0.9, the others shorter than 0.1. A
length is the confidence that an object of the class is present, so lengths need not sum to 1. The network's output must, for
scoring, calibration and figures: `probabilities` ranks the classes as `lengths` does.

Uses only built-in layers and operations of Keras, so that a saved network loads anywhere. Routing computes in float32, because it
sums the squares of hundreds of small numbers.
"""

import keras
from keras import KerasTensor, layers, ops

from pipelines.data.table.schema import DataSpec
from pipelines.models.layers import CustomLoss, raw_input, require_size, scaled

_SIZE = 9
_PRIMARY = 8
_CLASS = 16
_ROUNDS = 3
_LONG, _SHORT = 0.9, 0.1
_SHORT_WEIGHT = 0.5
# Below this height or width two unpadded convolutions would leave nothing.
_MIN_UNPADDED = 2 * _SIZE
# Gives a zero capsule a defined direction and gradient.
_EPSILON = 1e-7


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`. For images from 4 x 4; below 18 x 18 the convolutions are padded."""
    require_size(spec, 4)
    padding = "valid" if min(spec.shape[:2]) >= _MIN_UNPADDED else "same"
    inputs = raw_input(spec)
    features = layers.Conv2D(32, _SIZE, padding=padding, activation="relu", name="convolution")(scaled(spec, inputs))
    features = layers.Conv2D(32, _SIZE, strides=2, padding=padding, name="capsules")(features)
    capsules = layers.Reshape((-1, _PRIMARY), name="capsules_of_8")(features)
    capsules = _squashed(ops.cast(capsules, "float32"))
    votes = layers.EinsumDense(
        "bip,ipjq->bjiq",
        output_shape=(outputs, capsules.shape[1], _CLASS),
        # Keras' default for dense layers would make a four-dimensional kernel start far too small.
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.1),
        name="votes",
    )(capsules)
    return keras.Model(inputs, _output(_routed(ops.cast(votes, "float32"))), name="capsnet")


def margin_loss(labels: KerasTensor, lengths: KerasTensor) -> KerasTensor:
    """Equation 4 of the paper for each row [batch], for labels [batch] or [batch, 1] int and lengths [batch, classes]."""
    # Keras 3.2 passes labels in the network's dtype.
    is_class = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), lengths.shape[-1], dtype=lengths.dtype)
    too_short = is_class * ops.square(ops.relu(_LONG - lengths))
    too_long = (1 - is_class) * ops.square(ops.relu(lengths - _SHORT))
    return ops.sum(too_short + _SHORT_WEIGHT * too_long, axis=-1)


LOSS = CustomLoss(layer="lengths", function=margin_loss)


def _routed(votes: KerasTensor) -> KerasTensor:
    """Class capsules [batch, classes, values] from votes [batch, classes, capsules, values]."""
    fixed = _without_gradient(votes)
    agreement = ops.zeros_like(ops.sum(fixed, axis=-1))
    for _ in range(_ROUNDS - 1):
        routed = _squashed(_weighted_sum(fixed, agreement))
        agreement = agreement + ops.squeeze(ops.matmul(fixed, ops.expand_dims(routed, -1)), -1)
    return _squashed(_weighted_sum(votes, agreement))


def _without_gradient(votes: KerasTensor) -> KerasTensor:
    try:
        return ops.stop_gradient(votes)
    except ValueError:
        # Keras 3.2, in Databricks Runtime 15.4, does not support this for symbolic tensors. The output is the same, but the
        # gradient then flows through all iterations instead of only the last.
        return votes


def _weighted_sum(votes: KerasTensor, agreement: KerasTensor) -> KerasTensor:
    # As matrix products, which do not materialize votes times weights: the votes dominate memory use.
    weights = ops.softmax(agreement, axis=1)
    return ops.squeeze(ops.matmul(ops.expand_dims(weights, 2), votes), 2)


def _squashed(capsules: KerasTensor) -> KerasTensor:
    squared = ops.sum(ops.square(capsules), axis=-1, keepdims=True) + _EPSILON
    return capsules * (ops.sqrt(squared) / (1 + squared))


def _output(capsules: KerasTensor) -> KerasTensor:
    lengths = ops.sqrt(ops.sum(ops.square(capsules), axis=-1) + _EPSILON)
    lengths = layers.Activation("linear", dtype="float32", name="lengths")(lengths)
    return layers.Activation("linear", dtype="float32", name="probabilities")(lengths / ops.sum(lengths, axis=-1, keepdims=True))
