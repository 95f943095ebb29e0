"""Keras callbacks of the user's, on rank 0 or on all ranks.

They see metrics over all ranks: at the end of an epoch `loss` and `accuracy` of the training, `val_loss` and `val_accuracy`, as
Keras names them. One that sets `model.stop_training` ends the training on all ranks, after the epoch: ranks that stopped at
different steps would wait for each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from pipelines.errors import ConfigError, ConvoyError, UserCodeError
from pipelines.models.custom import loading
from pipelines.system import import_path
from pipelines.system.import_path import ALL_RANKS
from pipelines.train.checkpoint.training_progress import TrainingProgress
from pipelines.train.collectives.horovod import allreduce_sum

_KEY = "training.callbacks"


def make(entries: Iterable[str], rank: int) -> list[tuple[str, keras.callbacks.Callback]]:
    """The callbacks that run on a rank, with their entries in `training.callbacks`.

    Raises:
        ConfigError: an entry names no callback.
        UserCodeError: making one raises.
    """
    made = []
    for entry in entries:
        path = import_path.parse(entry.removeprefix(ALL_RANKS))
        if path is None or not (rank == 0 or entry.startswith(ALL_RANKS)):
            continue
        factory = loading.load(path, _KEY)
        with loading.errors_named():
            try:
                callback = factory() if not isinstance(factory, keras.callbacks.Callback) else factory
            except TypeError as error:
                if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                    raise
                raise ConfigError(f"{_KEY}={path}: must be a class or function without arguments ({error})") from error
        if not isinstance(callback, keras.callbacks.Callback):
            raise ConfigError(f"{_KEY}={path}: must give a keras.callbacks.Callback, not {type(callback).__name__}")
        made.append((entry, callback))
    return made


class OwnCallbacks(keras.callbacks.Callback):
    """Calls the user's callbacks. Comes after `EpochCallback`, and is there on all ranks, which agree here on the end.

    Args:
        callbacks: those of this rank (`make`).
        training_progress: its history has the metrics of each epoch, over all ranks.
    """

    def __init__(self, callbacks: Sequence[tuple[str, keras.callbacks.Callback]], training_progress: TrainingProgress) -> None:
        super().__init__()
        self.stopped = False
        """Whether one of them, on any rank, has ended the training."""
        self._callbacks = callbacks
        self._training_progress = training_progress
        self._asked = False

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._call("set_model", model)

    def set_params(self, params: Mapping[str, Any]) -> None:
        super().set_params(params)
        self._call("set_params", params)

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._call("on_train_begin", logs)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self._call("on_train_end", self._of_epoch() or logs)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._call("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        ends = bool(self.model.stop_training)
        self._call("on_epoch_end", epoch, self._of_epoch())
        asked = self._asked or (bool(self.model.stop_training) and not ends)
        self.stopped = allreduce_sum({"stop": float(asked)})["stop"] > 0
        self.model.stop_training = ends or self.stopped

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._call("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._call("on_train_batch_end", batch, logs)
        if self.model.stop_training:
            self._asked, self.model.stop_training = True, False

    def _of_epoch(self) -> dict[str, float]:
        """Metrics of the last epoch by Keras' names."""
        history = self._training_progress.history
        metrics = history[-1] if history else {}
        names = {"train/": "", "validation/": "val_"}
        return {
            name.replace(prefix, keras_prefix, 1): value
            for prefix, keras_prefix in names.items()
            for name, value in metrics.items()
            if name.startswith(prefix)
        } | ({"learning_rate": metrics["learning_rate"]} if metrics else {})

    def _call(self, method: str, *arguments: Any) -> None:
        for entry, callback in self._callbacks:
            try:
                with loading.errors_named():
                    getattr(callback, method)(*arguments)
            except ConvoyError:
                raise
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise UserCodeError(f"{_KEY}={entry}: {method} failed ({reason}); leave it out, or correct it") from error
