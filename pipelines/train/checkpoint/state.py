"""The state of a training as arrays (weights and optimizer state), and its random generators."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from pipelines.errors import CheckpointError
from pipelines.train.checkpoint.store import Arrays
from pipelines.train.optim.loss_scale import base_optimizer

Weights = Sequence[npt.NDArray[np.float32]]
Totals = Sequence[npt.NDArray[Any]]


def collect(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, best: Weights | None, inside_epoch: bool = False
) -> Arrays:
    """Copies of weights, optimizer state, best weights and, inside an epoch, the totals of its metrics, by name."""
    kinds = {"weights": model.weights, "optimizer": base_optimizer(optimizer).variables, "scale": _loss_scaling(optimizer)}
    if inside_epoch:
        kinds["metrics"] = model.metrics_variables
    arrays = {
        f"{kind}/{number:04d}": _copy(variable) for kind, variables in kinds.items() for number, variable in enumerate(variables)
    }
    return arrays | {f"best/{number:04d}": array for number, array in enumerate(best or ())}


def restore(model: keras.Model, optimizer: keras.optimizers.Optimizer, arrays: Arrays) -> Weights | None:
    """Restore what `collect` returned. Returns the best weights, or None if there were none.

    Raises:
        CheckpointError: the arrays belong to another network or optimizer.
    """
    for kind, variables in (("weights", model.weights), ("optimizer", base_optimizer(optimizer).variables)):
        stored = _of_kind(arrays, kind)
        if [array.shape for array in stored] != [tuple(variable.shape) for variable in variables]:
            raise CheckpointError(
                f"the checkpoint's {kind} do not match {model.name} with {optimizer.name}; "
                "resume with the network, optimizer and weight averaging it was written with, or start a new run"
            )
        for variable, array in zip(variables, stored, strict=True):
            variable.assign(array)
    # Only one of them has loss scaling if the precision was changed: the scale then starts anew, or is of no use.
    for variable, array in zip(_loss_scaling(optimizer), _of_kind(arrays, "scale"), strict=False):
        variable.assign(array)
    return _of_kind(arrays, "best") or None


def metric_totals(arrays: Arrays, share: float) -> Totals:
    """The totals of the metrics that `collect` returned, times `share`; empty without."""
    return [total * share for total in _of_kind(arrays, "metrics")]


def add_metric_totals(model: keras.Model, totals: Totals, first: int = 0) -> int:
    """Add totals to those of a model's metrics, from the variable `first` on, as far as they are built.

    Keras has the loss when an epoch begins, and builds the other metrics in a model's first step. The loss must be added before
    that: a sum in float32 depends on the order, and an execution may have many steps.

    Returns:
        the number of variables that have their totals.
    """
    variables = model.metrics_variables
    shapes = [tuple(variable.shape) for variable in variables]
    # A resumption may have other metrics. The loss is the first of all.
    if shapes != [total.shape for total in totals[: len(shapes)]]:
        return first
    for variable, total in zip(variables[first:], totals[first:], strict=False):
        variable.assign(variable + total)
    return len(variables)


def _loss_scaling(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables of loss scaling itself; empty without it."""
    own = {id(variable) for variable in base_optimizer(optimizer).variables}
    return [variable for variable in optimizer.variables if id(variable) not in own]


class RandomGenerators:
    """A network's random generators, as of dropout. Seeded by seed, shard and epoch, so that any epoch can be repeated alone.

    Args:
        model: a compiled model.
        seed: the seed of the training.
        shards: numbers of this rank's shards of training rows: its own rank, or its canonical shards.
    """

    def __init__(self, model: keras.Model, seed: int, shards: Sequence[int]) -> None:
        self._states = generator_states(model)
        self._seed = seed
        self._shards = shards
        self._starts = getattr(model, "generator_starts", None)

    def begin(self, epoch: int, calls: Sequence[int] = ()) -> None:
        """Seed the generators for an epoch.

        Args:
            epoch: number of the epoch, from 0.
            calls: calls of each generator so far, if the epoch is resumed after its first step.
        """
        starts = [[self._start(shard, epoch, number) for shard in self._shards] for number in range(len(self._states))]
        for number, state in enumerate(self._states):
            state.assign(np.array([starts[number][0], calls[number] if number < len(calls) else 0], dtype=state.dtype))
        if self._starts is not None:
            self._starts.assign(np.array(starts, np.int64).reshape(self._starts.shape))

    def calls(self) -> tuple[int, ...]:
        """Calls of each generator since the start of the epoch; the same on all ranks, and for all shards."""
        # keras.random.SeedGenerator.next increments the second value.
        return tuple(int(_copy(state)[1]) for state in self._states)

    def _start(self, shard: int, epoch: int, number: int) -> int:
        return int(np.random.SeedSequence((self._seed, shard, epoch, number)).generate_state(1)[0] >> 1)


def generator_states(model: keras.Model) -> list[keras.Variable]:
    """The state of each random generator of a network, [2]: where it starts, and its calls."""
    # Keras lists them among the model's variables, but not among its weights.
    return [variable for variable in model.variables if "seed_generator_state" in variable.name]


def _of_kind(arrays: Arrays, kind: str) -> list[npt.NDArray[np.float32]]:
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{kind}/")]


def _copy(variable: keras.Variable) -> npt.NDArray[np.float32]:
    return np.array(keras.ops.convert_to_numpy(variable))
