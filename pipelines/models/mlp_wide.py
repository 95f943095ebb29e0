"""The course's perceptron with hidden layers ten times as wide.

    image          [batch, 28, 28, 1]
    flatten        [batch, 784]
    hidden_1       [batch, 200]    relu
    hidden_2       [batch, 150]    relu
    probabilities  [batch, 10]     softmax

188,660 parameters for 28 x 28 x 1 and ten classes. Otherwise as `mlp`.
"""

import keras

from pipelines.data.table.schema import DataSpec
from pipelines.models import mlp


def build(spec: DataSpec, outputs: int) -> keras.Model:
    """See the module's docstring and `registry.build`."""
    return mlp.perceptron(spec, outputs, (200, 150), "mlp_wide")
