"""A barrier task: finds its rank, helps to set up Horovod's rendezvous, and runs the rank as a process of its own.

A process of its own, because Spark reuses its Python workers: environment variables, TensorFlow's threads and a finished Horovod
would leak into the next task. It also keeps the rank's output apart, and lets a rank that cannot be interrupted be killed.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
from pyspark import BarrierTaskContext

from pipelines.config import LaunchConfig
from pipelines.launch import slots
from pipelines.launch.failure import of_exit, read_failures, write_failure


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What every supervisor is given."""

    payload: bytes
    """The pickled function and its arguments."""
    launch: LaunchConfig
    work_dir: str


class RankFailed(RuntimeError):
    """Ends the barrier stage. The driver reads the reason from the failure reports."""


def supervise(assignment: Assignment) -> tuple[int, bytes]:
    """Run one rank to its end.

    Returns:
        rank, and the pickled result of the function.

    Raises:
        RankFailed: the function raised or its process died; a report lies in the work folder.
    """
    context = BarrierTaskContext.get()
    rank = context.partitionId()
    host = socket.gethostname()
    address, interface = _own_address(context.getTaskInfos()[rank].address)
    hosts = context.allGather(host)
    slot = slot_of(rank, hosts)
    server = _serve_rendezvous(address, [slot_of(other, hosts) for other in range(len(hosts))]) if rank == 0 else None
    try:
        rendezvous = context.allGather(f"{address}:{server.server_address[1]}" if server else "")[0]
        environment = horovod_environment(slot, rendezvous, interface, assignment.launch)
        return rank, _run_rank(assignment, rank, host, environment)
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


def slot_of(rank: int, hosts: list[str]) -> SlotInfo:
    """Horovod's view of a rank, given the host of every rank.

    The local rank counts the ranks before it on its host; the cross rank counts the hosts before it with this local rank.
    """
    host = hosts[rank]
    local_rank = hosts[:rank].count(host)
    with_local_rank = [other for other in dict.fromkeys(hosts) if hosts.count(other) > local_rank]
    return SlotInfo(
        hostname=host,
        rank=rank,
        size=len(hosts),
        local_rank=local_rank,
        local_size=hosts.count(host),
        cross_rank=with_local_rank.index(host),
        cross_size=len(with_local_rank),
    )


def horovod_environment(slot: SlotInfo, rendezvous: str, interface: str, launch: LaunchConfig) -> dict[str, str]:
    """The variables that Horovod and TensorFlow read when they start."""
    address, _, port = rendezvous.rpartition(":")
    threads = slots.threads_per_worker(launch.threads_per_worker, slots.own_cores(), slot.local_size)
    return {
        "HOROVOD_RANK": str(slot.rank),
        "HOROVOD_SIZE": str(slot.size),
        "HOROVOD_LOCAL_RANK": str(slot.local_rank),
        "HOROVOD_LOCAL_SIZE": str(slot.local_size),
        "HOROVOD_CROSS_RANK": str(slot.cross_rank),
        "HOROVOD_CROSS_SIZE": str(slot.cross_size),
        "HOROVOD_HOSTNAME": slot.hostname,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
        "HOROVOD_GLOO_IFACE": interface,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(launch.start_timeout_seconds),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(launch.stall_warning_seconds),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(launch.stall_shutdown_seconds),
        "OMP_NUM_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }


def _run_rank(assignment: Assignment, rank: int, host: str, environment: dict[str, str]) -> bytes:
    work_dir = Path(assignment.work_dir)
    log_path = work_dir / "logs" / f"rank-{rank}.log"
    with tempfile.TemporaryDirectory(prefix="convoy-rank-") as folder, log_path.open("ab") as log:
        order, outcome = Path(folder) / "order", Path(folder) / "outcome"
        order.write_bytes(assignment.payload)
        details = json.dumps(
            {
                "order": str(order),
                "outcome": str(outcome),
                "work_dir": str(work_dir),
                "rank": rank,
                "host": host,
                "log_path": str(log_path),
            }
        )
        command = [sys.executable, "-m", "pipelines.launch.rank", str(os.getpid()), details]
        process = subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            code = process.wait()
        finally:
            process.kill()
        if code == 0:
            return outcome.read_bytes()
    if not any(failure.rank == rank for failure in read_failures(work_dir)):
        write_failure(work_dir, of_exit(code, rank=rank, host=host, log_path=str(log_path)))
    raise RankFailed(f"rank {rank} ended with code {code}")


def _own_address(task_address: str) -> tuple[str, str]:
    """The address and the network interface that the other ranks reach this one by."""
    interfaces = psutil.net_if_addrs()
    own = task_address.rsplit(":", 1)[0]
    try:
        own = socket.gethostbyname(own)
    except OSError as error:
        raise RankFailed(f"the address {own} of this executor cannot be resolved") from error
    for interface, addresses in interfaces.items():
        if any(address.address == own for address in addresses):
            return own, interface
    raise RankFailed(f"no network interface has the address {own} that Spark gave this executor; set SPARK_LOCAL_IP")


def _serve_rendezvous(address: str, plan: list[SlotInfo]) -> RendezvousHTTPServer:
    # Horovod's own RendezvousServer would listen on every interface; this one listens on one.
    server = RendezvousHTTPServer((address, 0), RendezvousHandler, 0)
    server.init(plan)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
