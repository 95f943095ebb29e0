"""MLflow's web page on the recorded runs, on a free port of this machine: `./convoy ui`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from typing import Any, Sequence

from pipelines.system.secrets import mask
from tools.setup.clone import Clone, SetupError, say


def serve(clone: Clone, arguments: Sequence[str], variables: dict[str, str]) -> None:
    """Run MLflow's server until it ends or Ctrl-C. Raises SetupError when it ends by itself, with the end of its log."""
    store = variables.get("MLFLOW_TRACKING_URI") or f"sqlite:///{clone.root}/mlflow.db"
    port = free_port(5000)
    address = f"http://127.0.0.1:{port}"
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # The address may hold a password, and every user of the machine can read a command line.
    variables = {**variables, "MLFLOW_BACKEND_STORE_URI": store}
    log = clone.root / f"runs/ui-{port}.log"
    log.parent.mkdir(exist_ok=True)
    say(f"MLflow starts on {address}; its log is {log}")
    # SIGINT too: a shell that starts this in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with open(log, "w", opener=_owner_only) as output:
        # A session of its own: a Ctrl-C reaches this process alone, which then ends the server in order.
        server = subprocess.Popen(
            [str(clone.venv / "bin" / command[0]), *command[1:], *arguments],
            env=variables,
            cwd=str(clone.root),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while server.poll() is None and not _answers(f"{address}/health"):
                time.sleep(0.3)
            if server.poll() is None:
                say(f"MLflow at {_runs_page(clone, address, variables)} (Ctrl-C ends it)")
            server.wait()
        except KeyboardInterrupt:
            print()
            say("ended")
            return
        finally:
            end_session(server)
    tail = "\n".join("    " + line for line in mask(log.read_text(errors="replace")).splitlines()[-12:])
    raise SetupError(f"MLflow ended with exit code {server.returncode}. The end of {log}:\n{tail}")


def _runs_page(clone: Clone, address: str, variables: dict[str, str]) -> str:
    """The address of the list of training runs, or of the server where that is not to be had."""
    command = [str(clone.venv / "bin/python"), str(clone.root / "jobs/runs_page.py"), address]
    done = subprocess.run(command, env=variables, cwd=str(clone.root), capture_output=True, text=True, check=False)
    return done.stdout.strip() or address


def end_session(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it started, by force after ten seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


# Names that no other process has as long as this one runs.
_claims: list[socket.socket] = []


def free_port(wanted: int) -> int:
    """The wanted port, or another one if that is taken: also by a server of another `./convoy ui` that does not listen yet."""
    for port in (wanted, 0):
        with socket.socket() as listener, contextlib.suppress(OSError):
            if port:
                claim = socket.socket(socket.AF_UNIX)
                claim.bind(f"\0convoy-ui-{port}")
                _claims.append(claim)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])
    raise SetupError("no free port on 127.0.0.1")


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
