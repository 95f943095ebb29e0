"""A real MLflow server on loopback, and a proxy that makes it slow."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """An MLflow server that keeps its data while it is down.

    Args:
        folder: for what it holds.
        serves_artifacts: artifacts go through the server; if not, its clients write them to `folder`.
    """

    def __init__(self, folder: Path, serves_artifacts: bool = True) -> None:
        self._artifacts = ["--artifacts-destination", f"{folder}/artifacts"]
        if not serves_artifacts:
            self._artifacts = ["--no-serve-artifacts", "--default-artifact-root", f"file:{folder}/artifacts"]
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        stores = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", *self._artifacts]
        program = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port)]
        # Half a dozen processes for jobs that nobody submits.
        variables = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            command = [*program, "--workers", "1", *stores]
            self._process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 150
        while not self._healthy():
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError((self.folder / "server.log").read_text())
            time.sleep(0.2)

    def kill(self) -> None:
        if self._process is None:
            return
        family = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        for process in family:
            process.kill()
        self._process.wait(30)
        self._process = None

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False


@contextmanager
def slow(port: int, seconds: float) -> Iterator[str]:
    """A proxy on loopback for `port` that delays every response. Yields its URI."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket, delay: float) -> None:
        try:
            while data := source.recv(65536):
                time.sleep(delay)
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
            except OSError:
                return
            threading.Thread(target=pass_on, args=(client, server, 0), daemon=True).start()
            threading.Thread(target=pass_on, args=(server, client, seconds), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
