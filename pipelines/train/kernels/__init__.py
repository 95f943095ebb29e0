"""Convoy's own kernels, which replace Keras' operations during training where they are faster on CPUs.

Each computes what Keras' operation does, up to rounding (and other random numbers for dropout), and leaves to Keras what it does
not support. They are for training only: a saved model must not hold them.
"""

import keras

from pipelines.train.kernels.byte_dropout import use_byte_dropout
from pipelines.train.kernels.fused_adam import with_fused_update
from pipelines.train.kernels.sparse_gradients import use_sparse_gradients
from pipelines.train.precision import ResolvedPrecision


def accelerate(model: keras.Model, precision: ResolvedPrecision) -> None:
    """Replace a network's layers in place where a kernel supports them. Layers of other classes than Keras' stay as they are.

    Args:
        model: a network, not yet traced.
        precision: what its layers compute in.
    """
    # Sparse gradients first: the rate of a dropout layer, while it is still Keras', decides where they pay.
    if type(model).__module__.startswith("keras."):
        # Another class may call its layers one by one.
        use_sparse_gradients(model, precision)
    use_byte_dropout(model)


def accelerate_optimizer(optimizer_class: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """The optimizer class with a kernel for its update; the class itself if there is none for it."""
    if issubclass(optimizer_class, keras.optimizers.Adam):
        return with_fused_update(optimizer_class)
    return optimizer_class
