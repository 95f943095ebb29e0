"""Warns of memory and of a disk that are nearly used up, before the kernel kills a rank or a checkpoint finds no room."""

import shutil
import socket
from pathlib import Path

from pipelines.launch.health.heartbeat import Heartbeat
from pipelines.track.rundir.symptom import Symptom

# Above this share the kernel may soon kill a process; it says nothing to the one that it kills.
_LITTLE_MEMORY = 0.92
# Heartbeats and the tracking journal can still be written then.
_LITTLE_DISK_BYTES = 100_000_000


class ScarcityFinder:
    """Finds what is scarce in one attempt; each is told once.

    Args:
        run_dir: run folder, on the disk that is watched.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        # Host and limit: ranks that share a memory have nothing to add.
        self._told_of_memory: set[tuple[str, int]] = set()
        self._told_of_disk = False

    def memory(self, last: Heartbeat) -> list[Symptom]:
        """What a heartbeat shows of the memory of its machine or control group."""
        whose = (last.host, last.memory_limit)
        if last.memory_used <= _LITTLE_MEMORY * last.memory_limit or whose in self._told_of_memory:
            return []
        self._told_of_memory.add(whose)
        in_use = f"{last.memory_used / 1e9:.1f} of the {last.memory_limit / 1e9:.1f} GB of {last.memory_whose} are in use"
        line = (
            f"rank {last.rank} on {last.host} has little memory left ({last.progress.activity}): {in_use}; lower "
            "training.batch_size_per_worker, stream.memory_limit_mb or the workers on a machine before the kernel kills one"
        )
        figures = {"used_bytes": last.memory_used, "limit_bytes": last.memory_limit}
        return [Symptom(kind="memory", rank=last.rank, host=last.host, line=line, figures=figures)]

    def disk(self) -> list[Symptom]:
        """What the disk of the run folder shows, which the ranks share with the driver."""
        try:
            usage = shutil.disk_usage(self._run_dir)
        except OSError:
            return []
        # Object stores have no size.
        if usage.total == 0 or usage.free >= _LITTLE_DISK_BYTES or self._told_of_disk:
            return []
        self._told_of_disk = True
        line = (
            f"the disk of the run folder {self._run_dir} is nearly full: {usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB "
            "are left, and a checkpoint that finds no room ends the training; remove what is not needed"
        )
        figures = {"free_bytes": usage.free, "total_bytes": usage.total}
        return [Symptom(kind="full disk", rank=None, host=socket.gethostname(), line=line, figures=figures)]
