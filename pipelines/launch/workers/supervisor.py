"""Supervisor of a rank, run by a barrier task: takes part in Horovod's rendezvous and runs the rank in a separate process.

A separate process, because Spark reuses its Python workers: environment variables, TensorFlow's threads and a shut-down Horovod
would leak into the next task. It also keeps the rank's output separate, and can be killed if the rank cannot be interrupted.
"""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pyspark import BarrierTaskContext

from pipelines.config import LaunchConfig
from pipelines.errors import ConvoyError
from pipelines.launch.health import heartbeat
from pipelines.launch.health.failures import (
    Failure,
    embed,
    failure_from_exception,
    failure_from_exit_code,
    has_failure,
    write_failure,
)
from pipelines.launch.health.node_metrics import sample_node
from pipelines.launch.health.silence import SilenceWatch
from pipelines.launch.rendezvous import server
from pipelines.launch.rendezvous.server import RankPlacement
from pipelines.launch.workers import commands, scratch, spawn
from pipelines.launch.workers.environment import gpu_environment, horovod_environment
from pipelines.launch.workers.rank import FAILURE, RESULT, RankDetails
from pipelines.launch.workers.spawn import RankProcess
from pipelines.system import atomic, paths, surroundings, writeback
from pipelines.system.secrets import without_secrets
from pipelines.track.rundir.layout import LOG_FOLDER, SPOOL_FOLDER

_POLL_SECONDS = 0.2
_CAUSE_FIRST_SECONDS = 3.0
# The system lacks what a process needs, not the file.
_EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Parameters of all supervisors."""

    payload: bytes
    """The pickled function and its arguments."""
    launch: LaunchConfig
    work_dir: str
    attempt_dir: str
    """Receives heartbeats and failure reports of this start of the workers."""
    fork_server: str = ""
    """Address of the driver's fork server; empty unless the tasks run on its machine."""
    placements: tuple[RankPlacement, ...] = ()
    """Placements of all ranks if the driver serves their rendezvous; otherwise the supervisors determine them."""
    path_variables: Mapping[str, str] = field(default_factory=paths.variables)
    """The driver's environment variables that locate data and tables."""


class RankFailed(RuntimeError):
    """Ends the barrier stage. The driver reads the cause from the failure reports, or from this error if the disk is full."""


def supervise(assignment: Assignment) -> tuple[int, bytes]:
    """Run one rank to completion.

    Returns:
        the rank, and the pickled result of the function.

    Raises:
        RankFailed: the function raised or its process died; the attempt folder has a report.
    """
    context = BarrierTaskContext.get()
    rank = context.partitionId()
    host = socket.gethostname()
    try:
        with _placement(assignment, context, host) as placement:
            environment = horovod_environment(placement, assignment.launch)
            resources = {name: resource.addresses for name, resource in context.resources().items()}
            environment |= gpu_environment(resources, placement.interface)
            # One supervisor per node.
            sampling = placement.slot.local_rank == 0
            with sample_node(Path(assignment.work_dir) / SPOOL_FOLDER, placement.slot.cross_rank) if sampling else nullcontext():
                return rank, _run_rank(assignment, rank, host, environment)
    except ConvoyError as error:
        raise RankFailed(embed(failure_from_exception(error, "", rank=rank, host=host, log_path=""))) from error


def _placement(assignment: Assignment, context: BarrierTaskContext, host: str) -> AbstractContextManager[RankPlacement]:
    rank = context.partitionId()
    if assignment.placements:
        return nullcontext(assignment.placements[rank])
    spark_address = context.getTaskInfos()[rank].address.rsplit(":", 1)[0]
    return server.distributed_rendezvous(rank, host, spark_address, context.allGather)


@contextlib.contextmanager
def run_locally(assignment: Assignment) -> Iterator[list[Future[bytes]]]:
    """Run all ranks of an assignment on this machine, without Spark. Yields futures of their pickled results, in rank order.

    The block ends when all ranks have ended; the future of a failed rank raises RankFailed.
    """
    workers, host = assignment.launch.workers, socket.gethostname()
    with server.local_rendezvous(workers) as placements, ThreadPoolExecutor(workers, thread_name_prefix="rank") as pool:
        yield [
            pool.submit(_run_rank, assignment, rank, host, horovod_environment(placement, assignment.launch))
            for rank, placement in enumerate(placements)
        ]


def _run_rank(assignment: Assignment, rank: int, host: str, environment: dict[str, str]) -> bytes:
    attempt_dir = Path(assignment.attempt_dir)
    work_dir = Path(assignment.work_dir)
    log_file = log_path(work_dir, rank)
    try:
        scratch_variables = {"TMPDIR": str(scratch.make(work_dir, rank, attempt_dir.name))}
        # The driver must be able to read it, who may be another user.
        opener = atomic.owner_only if work_dir.stat().st_uid == os.geteuid() else None
        with writeback.staged(work_dir) as stage, open(stage.file(log_file), "ab", opener=opener) as log:
            details = RankDetails(
                rank=rank,
                host=host,
                work_dir=str(work_dir),
                attempt_dir=str(attempt_dir),
                staging_dir=str(stage.folder or ""),
                log_path=str(log_file),
                log_level=assignment.launch.log_level,
                heartbeat_seconds=heartbeat.interval_seconds(assignment.launch),
            )
            code, outcome = _run_process(assignment, details, log, environment | scratch_variables)
    except OSError as error:
        failure = failure_from_exception(_start_error(error, rank, host, log_file), "", rank=rank, host=host, log_path="")
        with contextlib.suppress(OSError):
            write_failure(attempt_dir, failure)
        raise RankFailed(embed(failure)) from error
    finally:
        scratch.remove(work_dir, rank, attempt_dir.name)
    if code == 0:
        return outcome.removeprefix(RESULT)
    if outcome.startswith(FAILURE):
        failure = Failure.from_json(outcome.removeprefix(FAILURE))
        if failure.is_effect and not has_failure(attempt_dir, rank):
            # Without reports, the driver only learns which task Spark saw fail first, which should be the one at fault.
            time.sleep(_CAUSE_FIRST_SECONDS)
    else:
        activity = heartbeat.last_activity(attempt_dir, rank)
        failure = failure_from_exit_code(code, rank=rank, host=host, log_path=str(log_file), last_activity=activity)
        with contextlib.suppress(OSError):
            write_failure(attempt_dir, failure)
    raise RankFailed(embed(failure))


def _start_error(error: OSError, rank: int, host: str, log_file: Path) -> ConvoyError:
    if error.errno in _EXHAUSTED:
        remedy = "raise the limits of processes and open files (ulimit -u, ulimit -n, or those of the container), or free memory"
        return ConvoyError(f"rank {rank} on {host}: its process could not be started ({error.strerror}); {remedy}")
    file = error.filename or log_file
    return ConvoyError(f"{file}: cannot be written ({error.strerror}); launch.runs_uri must be writable on all nodes")


def _run_process(assignment: Assignment, details: RankDetails, log: BinaryIO, environment: dict[str, str]) -> tuple[int, bytes]:
    """Run the rank's process without any credentials. Returns its exit code, as in `subprocess`, and the outcome it sent."""
    reader, writer = os.pipe()
    payload_reader, payload_writer = os.pipe()
    with os.fdopen(reader, "rb") as outcome, os.fdopen(payload_writer, "wb") as payload:
        try:
            # The rank also needs the paths that `--py-files` and a cluster's libraries have added to this worker's path.
            path = {"PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}
            variables = spawn.DEFAULT_VARIABLES | without_secrets(os.environ) | path
            variables, _ = surroundings.repaired(variables | dict(assignment.path_variables) | environment)
            # A fork must not use CUDA that its parent process has initialized.
            server = "" if "CUDA_VISIBLE_DEVICES" in environment else assignment.fork_server
            process = spawn.start(details, variables, standard_input=payload_reader, log=log, outcome=writer, server=server)
        finally:
            os.close(payload_reader)
            os.close(writer)
        try:
            with contextlib.suppress(BrokenPipeError), payload:
                payload.write(assignment.payload)
            received: list[bytes] = []
            reading = threading.Thread(target=lambda: received.append(outcome.read()), daemon=True)
            reading.start()
            code = _wait(process, details)
            reading.join()
            return code, b"".join(received)
        finally:
            process.kill()


def _wait(process: RankProcess, details: RankDetails) -> int:
    """Wait for the rank to end, and pass on commands of the driver and termination signals. Returns the exit code."""
    stop_requested = False

    def request_stop(*_: object) -> None:
        # No lock, such as an Event has: a signal that arrives during this handler would wait for it forever.
        nonlocal stop_requested
        stop_requested = True

    # Spark's daemon sends SIGHUP when its JVM has exited, and a node's shutdown SIGTERM. The driver handles its own signals.
    handled = (signal.SIGHUP, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {signum: signal.signal(signum, request_stop) for signum in handled}
    kill_at = float("inf")
    attempt_dir = Path(details.attempt_dir)
    silence = SilenceWatch(attempt_dir, details.rank, process.pid, details.heartbeat_seconds, process.send_signal)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL_SECONDS)
            silence.look()
            command = commands.read(attempt_dir)
            if command == commands.KILL or time.monotonic() > kill_at:
                # Writes the stacks of its threads to its log.
                process.send_signal(signal.SIGUSR1)
                time.sleep(_POLL_SECONDS)
                process.kill()
            elif (command == commands.STOP or stop_requested) and kill_at == float("inf"):
                process.terminate()
                kill_at = time.monotonic() + commands.GRACE_SECONDS
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def log_path(work_dir: Path, rank: int) -> Path:
    """Path of a rank's log."""
    return work_dir / LOG_FOLDER / f"rank-{rank}.log"
