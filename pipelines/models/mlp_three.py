"""The course's perceptron with a third hidden layer.

    image          [batch, 28, 28, 1]
    flatten        [batch, 784]
    hidden_1       [batch, 20]    relu
    hidden_2       [batch, 15]    relu
    hidden_3       [batch, 15]    relu
    probabilities  [batch, 10]    softmax

16,415 parameters for 28 x 28 x 1 and ten classes. The course asks for the layer but not its width. Otherwise as `mlp`.
"""

import keras

from pipelines.data.table.schema import DataSpec
from pipelines.models import mlp


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`."""
    return mlp.perceptron(spec, outputs, (20, 15, 15), "mlp_three")
