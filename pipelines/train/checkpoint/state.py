"""What changes while a network trains, as arrays: weights, optimizer state, and where the random generators stand."""

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt

from pipelines.errors import CheckpointError
from pipelines.train.checkpoint.store import Arrays

Weights = Sequence[npt.NDArray[np.float32]]


def collect(model: keras.Model, optimizer: keras.optimizers.Optimizer, best: Weights | None) -> Arrays:
    """Copies of everything that a training goes on from, named for a checkpoint."""
    arrays = {f"weights/{number:04d}": _copy(variable) for number, variable in enumerate(model.weights)}
    arrays |= {f"optimizer/{number:04d}": _copy(variable) for number, variable in enumerate(optimizer.variables)}
    arrays |= {f"best/{number:04d}": array for number, array in enumerate(best or ())}
    return arrays


def restore(model: keras.Model, optimizer: keras.optimizers.Optimizer, arrays: Arrays) -> Weights | None:
    """Put back what `collect` took. Returns the best weights, where there were some.

    Raises:
        CheckpointError: the arrays are those of another network or optimizer.
    """
    for kind, variables in (("weights", model.weights), ("optimizer", optimizer.variables)):
        stored = _of_kind(arrays, kind)
        if [array.shape for array in stored] != [tuple(variable.shape) for variable in variables]:
            raise CheckpointError(
                f"the checkpoint's {kind} are not those of {model.name} with {optimizer.name}; "
                "resume with the network, optimizer and kind of average it was written with, or start a new run"
            )
        for variable, array in zip(variables, stored, strict=True):
            variable.assign(array)
    return _of_kind(arrays, "best") or None


class RandomGenerators:
    """The seeds of dropout and the like: a function of seed, rank and epoch, so that any epoch can be repeated alone."""

    def __init__(self, model: keras.Model, seed: int, rank: int) -> None:
        # Keras counts them among the variables but not among the weights.
        self._states = [variable for variable in model.variables if "seed_generator_state" in variable.name]
        self._entropy = (seed, rank)

    def begin(self, epoch: int, calls: Sequence[int] = ()) -> None:
        """Set them for an epoch, counted from 0.

        Args:
            epoch: the one that begins.
            calls: how often each was asked in this epoch before, where it is not begun at its first step.
        """
        for number, state in enumerate(self._states):
            start = np.random.SeedSequence((*self._entropy, epoch, number)).generate_state(1)[0] >> 1
            state.assign(np.array([start, calls[number] if number < len(calls) else 0], dtype=state.dtype))

    def calls(self) -> tuple[int, ...]:
        """How often each was asked since the epoch began; the same on all ranks."""
        # A call adds one to the second value (keras.random.SeedGenerator.next).
        return tuple(int(_copy(state)[1]) for state in self._states)


def _of_kind(arrays: Arrays, kind: str) -> list[npt.NDArray[np.float32]]:
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{kind}/")]


def _copy(variable: keras.Variable) -> npt.NDArray[np.float32]:
    return np.array(keras.ops.convert_to_numpy(variable))
