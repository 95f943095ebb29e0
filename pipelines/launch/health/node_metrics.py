"""CPU, memory and network usage of each node, sampled by one supervisor per node and reported through the spool."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pipelines.system import writeback
from pipelines.track.rundir.events import NodeSample, SpoolWriter

_log = logging.getLogger(__name__)

# The interval grows with the run, to a twentieth of its time so far, within these limits.
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 30.0
_SHARE = 20
_MEGABYTE = 1e6


@contextmanager
def sample_node(spool: Path, node: int) -> Iterator[None]:
    """Sample this node while the block runs. A sample takes about a millisecond."""
    stop = threading.Event()
    thread = threading.Thread(target=_sample_until_stopped, args=(spool, node, stop), name="node-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_SHORTEST_SECONDS)
        with suppress(OSError):
            writeback.close(spool.parent)


def measure(since: "psutil._common.snetio | None") -> dict[str, float]:
    """Current usage of the node under MLflow's metric names; network traffic is counted from `since`.

    CPU utilization is the average since the last call.
    """
    memory, network = psutil.virtual_memory(), psutil.net_io_counters()
    metrics = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _MEGABYTE,
    }
    if network is not None and since is not None:
        metrics["network_receive_megabytes"] = (network.bytes_recv - since.bytes_recv) / _MEGABYTE
        metrics["network_transmit_megabytes"] = (network.bytes_sent - since.bytes_sent) / _MEGABYTE
    return metrics


def _sample_until_stopped(spool: Path, node: int, stop: threading.Event) -> None:
    try:
        writer = SpoolWriter(spool, node, "node")
        since, started, sample = psutil.net_io_counters(), time.monotonic(), 0
        # The first call only sets the reference.
        psutil.cpu_percent()
        while not stop.wait(min(max((time.monotonic() - started) / _SHARE, _SHORTEST_SECONDS), _LONGEST_SECONDS)):
            sample += 1
            writer.write(NodeSample(sample, measure(since)))
        writer.close()
    except Exception:
        _log.warning("node %s is no longer sampled", node, exc_info=True)
