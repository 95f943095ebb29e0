"""When rank 0 takes a checkpoint, and how it is written while training goes on."""

import threading
from pathlib import Path

from pipelines.config import CheckpointConfig
from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import Arrays, State


class CheckpointWriter:
    """Writes one checkpoint at a time on a thread of its own. For rank 0.

    Args:
        run_dir: the run's folder.
        settings: how often, and how many stay.
    """

    def __init__(self, run_dir: Path, settings: CheckpointConfig) -> None:
        self._run_dir = run_dir
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def due(self, epoch: int, last: bool) -> bool:
        """Whether a checkpoint is to be written after this epoch, counted from 1."""
        every = self._settings.every_epochs
        return every > 0 and (last or epoch % every == 0)

    @property
    def enabled(self) -> bool:
        return self._settings.every_epochs > 0

    def save(self, state: State, arrays: Arrays) -> None:
        """Begin to write; the arrays must not be changed afterwards.

        Raises:
            CheckpointError: the checkpoint before this one could not be written.
        """
        self.finish()
        self._thread = threading.Thread(target=self._write, args=(state, arrays), name="checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            CheckpointError: it could not be written.
        """
        self.wait()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """As `finish`, for a training that has failed by itself: its own error is the one that counts."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: State, arrays: Arrays) -> None:
        try:
            store.write(self._run_dir, state, arrays, self._settings.keep)
        except Exception as error:
            self._error = error
