"""Writes rank 0's checkpoints while training continues."""

import threading
from pathlib import Path

from pipelines.train.checkpoint import store
from pipelines.train.checkpoint.store import Arrays, State


class CheckpointWriter:
    """Writes one checkpoint at a time on a background thread. For rank 0.

    Args:
        run_dir: the run folder.
        keep: number of checkpoints to keep.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        self._run_dir = run_dir
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

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
            store.write(self._run_dir, state, arrays, self._keep)
        except Exception as error:
            self._error = error
