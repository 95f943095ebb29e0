"""A fork server that lives as long as the driver's process, for sessions that start ranks again and again, as notebooks do."""

import atexit
import contextlib
import threading

from pipelines.launch.workers import spawn


class _Kept:
    """Holds the server in a thread of its own: the kernel ends a server with the thread that started it."""

    def __init__(self) -> None:
        self.address = ""
        self._started, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="fork-server", daemon=True)
        self._thread.start()
        self._started.wait()
        atexit.register(self.stop)

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _hold(self) -> None:
        # Ranks are started afresh where there can be no server.
        with contextlib.suppress(OSError), spawn.fork_server("anything") as self.address:
            self._started.set()
            self._end.wait()
        self._started.set()
        self.address = ""


_lock = threading.Lock()
_kept: _Kept | None = None


def address() -> str:
    """That of this process's fork server, for supervisors on its machine; it is started with the first call. May be empty."""
    global _kept
    with _lock:
        if _kept is None:
            _kept = _Kept()
        return _kept.address
