"""Layers of the user's whose random numbers canonical shards cannot determine."""

import re
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from pipelines.errors import ConfigError
from pipelines.train.checkpoint.state import generator_states

# Operations that draw from a state of their own. Those of a seed that is given begin with Stateless.
_DRAWING = ("Random", "TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial", "Stateful", "RngReadAndSkip")


def check_seeded(model: keras.Model, shape: Sequence[int], shards: int) -> None:
    """Check that all random numbers of a network come from generators that its layers own (`RandomGenerators`).

    Args:
        model: a built network.
        shape: of a row.
        shards: `training.canonical_shards`.

    Raises:
        ConfigError: names the layer that draws others.
    """
    function = tf.function(lambda rows: model(rows, training=True), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec((2, *shape), tf.float32)).graph
    name = next(_drawing(graph, {id(state.value) for state in generator_states(model)}), None)
    if name is None:
        return
    # TensorFlow numbers the scopes, which are the names of the layers.
    names = "|".join(re.escape(layer.name) for layer in model._flatten_layers(include_self=False))
    found = (re.fullmatch(rf"({names})(_\d+)?", part) for part in reversed(name.split("/")))
    layer = next((match[1] for match in found if match), name)
    raise ConfigError(
        f"training.canonical_shards={shards}: layer {layer} draws random numbers that are not the same on another number of "
        "workers; give it a keras.random.SeedGenerator as its attribute and draw with seed=self.ATTRIBUTE, or set this to 0"
    )


def _drawing(graph: tf.Graph, known: set[int]) -> Iterator[str]:
    """Names of operations that draw random numbers by another state than the known variables, by their ids."""
    definition = graph.as_graph_def()
    for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
        yield from (node.name for node in nodes if node.op.startswith(_DRAWING))
    others = {id(each.handle) for each in graph.variables if "seed_generator_state" in each.name and id(each) not in known}
    for outside, inside in graph.captures:
        if id(outside) in others:
            yield from (operation.name for operation in inside.consumers())
