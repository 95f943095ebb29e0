"""Sends the journal of a run to MLflow from a background thread, so that MLflow never delays training."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import ConvoyError
from pipelines.track.mlflow.follower import MlflowSync
from pipelines.track.mlflow.journal import Journal
from pipelines.track.mlflow.replay import replay

# Wait at the end for a server that has never answered.
_SILENT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
# Training uses all cores, so the thread's CPU time slows it down. Entries that arrive during a rest are sent together.
_MAX_CPU_SHARE = 0.01
_LONGEST_REST_SECONDS = 10.0
_log = logging.getLogger(__name__)


class JournalSender:
    """Sends new entries until `finish`. All other methods return at once.

    Args:
        journal: the journal.
        tracking_uri: the server.
        patience_seconds: delay before MLflow is imported, unless `hand_over` or `finish` is called earlier.
        new: whether the journal is new, so that none of its entries can have been sent before.
    """

    def __init__(self, journal: Journal, tracking_uri: str, patience_seconds: float, *, new: bool) -> None:
        self.warnings: list[str] = []
        self.orphans: list[Path] = []
        """Folders of other runs whose journals are still to be sent."""
        self._journal = journal
        self._sync = MlflowSync(journal, tracking_uri)
        if new:
            self._sync.forget_doubts()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._handing_over = threading.Event()
        self._patience_seconds = patience_seconds
        # For each batch sent to MLflow: start and end in seconds since the Unix epoch, and CPU seconds.
        self._cpu_times: list[tuple[float, float, float]] = []
        self._thread = threading.Thread(target=self._send, name="tracking", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why entries could not be sent, or empty."""
        return self._sync.trouble

    @property
    def refusals(self) -> Sequence[str]:
        """One line for each value that the server rejected."""
        return self._sync.refusals

    def wake(self) -> None:
        """The journal has new entries."""
        self._wake.set()

    def hand_over(self) -> None:
        """Start sending now."""
        self._handing_over.set()

    def also_send(self, run_dirs: Sequence[Path]) -> None:
        """Also send the journals of these runs, when this one is up to date."""
        self.orphans.extend(run_dirs)
        self.wake()

    def processor_seconds(self, since: float, until: float) -> float:
        """CPU seconds spent on sending between two times in seconds since the Unix epoch."""
        return sum(
            cpu_seconds * max(0.0, min(stop, until) - max(start, since)) / (stop - start)
            for start, stop, cpu_seconds in list(self._cpu_times)
            if stop > start
        )

    def finish(self, limit_seconds: float) -> float:
        """Send the rest. Returns the seconds waited, at most the limit, and less if the server has never answered."""
        self._closing.set()
        self._handing_over.set()
        self._wake.set()
        started = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - started < limit_seconds:
            if self._sync.silent_seconds > _SILENT_SECONDS:
                break
            self._thread.join(0.1)
        return time.monotonic() - started

    def _send(self) -> None:
        self._handing_over.wait(self._patience_seconds)
        with self._journal.exclusive() as acquired:
            if not acquired:
                self._sync.trouble = "another process is recording this run"
                return
            pause = _FIRST_PAUSE_SECONDS
            while True:
                self._wake.clear()
                closing = self._closing.is_set()
                started, cpu_started = time.time(), time.thread_time()
                done = self._sync.catch_up()
                cpu_seconds = time.thread_time() - cpu_started
                self._cpu_times.append((started, time.time(), cpu_seconds))
                if done and self.orphans:
                    self._replay_orphan()
                elif closing:
                    return
                elif done:
                    pause = _FIRST_PAUSE_SECONDS
                    self._closing.wait(min(cpu_seconds / _MAX_CPU_SHARE, _LONGEST_REST_SECONDS))
                    self._wake.wait()
                else:
                    self._closing.wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _replay_orphan(self) -> None:
        run_dir = self.orphans[0]
        try:
            replay(run_dir)
        except ConvoyError as error:
            self.warnings.append(str(error))
        except Exception as error:
            _log.warning("%s could not be replayed", run_dir, exc_info=error)
            self.warnings.append(f"{run_dir}: its end could not be recorded ({type(error).__name__})")
        self.orphans.remove(run_dir)
