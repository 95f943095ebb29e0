"""Decides when rank 0 writes a checkpoint, and writes it while training continues."""

import threading
from pathlib import Path

from pipelines.config import CheckpointConfig
from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import Arrays, State


class CheckpointWriter:
    """Writes one checkpoint at a time on a background thread. For rank 0.

    Args:
        run_dir: the run folder.
        settings: how often to write checkpoints, and how many to keep.
    """

    def __init__(self, run_dir: Path, settings: CheckpointConfig) -> None:
        self._run_dir = run_dir
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def due(self, epoch: int, last: bool) -> bool:
        """Whether to write a checkpoint after this epoch, counted from 1."""
        every = self._settings.every_epochs
        return every > 0 and (last or epoch % every == 0)

    @property
    def enabled(self) -> bool:
        return self._settings.every_epochs > 0

    def save(self, state: State, arrays: Arrays) -> None:
        """Start writing a checkpoint; the arrays must not be changed afterwards.

        Raises:
            CheckpointError: the previous checkpoint could not be written.
        """
        self.finish()
        self._thread = threading.Thread(target=self._write, args=(state, arrays), name="checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        self.wait()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait for the last checkpoint without raising its error, for a training that has failed with an error of its own."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: State, arrays: Arrays) -> None:
        try:
            store.write(self._run_dir, state, arrays, self._settings.keep)
        except Exception as error:
            self._error = error
