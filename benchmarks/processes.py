"""Run whole processes and measure them from the outside."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SUBMIT = Path(sys.executable).with_name("spark-submit")
_SAMPLE_SECONDS = 0.5
# To report a process's memory the kernel walks all its pages, on a core that the measured process could use.
_LARGEST_SHARE = 0.05


@dataclass(frozen=True)
class Finished:
    """A command that exited with code 0."""

    seconds: float
    """Wall time from start to exit."""
    peak_mb: float
    """Largest sampled sum of proportional set sizes over the process tree; pages shared by processes count once."""
    output: str
    rank_peak_mb: float = 0.0
    """Largest proportional set size of a single rank."""


class CommandFailed(RuntimeError):
    pass


def run(command: list[str], home: Path, variables: dict[str, str] | None = None) -> Finished:
    """Run a command with `home` as Convoy's home folder.

    Raises:
        CommandFailed: its exit code is not 0; the message ends with its last output.
    """
    environment = os.environ | {"CONVOY_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"} | (variables or {})
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = _Peak(process.pid)
    try:
        output, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        peak.stop()
    seconds = time.monotonic() - started
    if process.returncode != 0:
        raise CommandFailed(f"{' '.join(command)} ended with exit code {process.returncode}:\n{output[-2000:]}")
    return Finished(seconds, peak.megabytes, output, peak.rank_megabytes)


class _Peak:
    """Samples the memory of a process tree from a thread."""

    def __init__(self, pid: int) -> None:
        self.megabytes = self.rank_megabytes = 0.0
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        pause = _SAMPLE_SECONDS
        while not self._end.wait(pause):
            started = time.thread_time()
            total = 0
            try:
                root = psutil.Process(self._pid)
                tree = [root, *root.children(recursive=True)]
            except psutil.Error:
                continue
            for process in tree:
                try:
                    pss = process.memory_full_info().pss
                    is_rank = process.name().startswith("convoy-rank-")
                except psutil.Error:
                    continue
                total += pss
                if is_rank:
                    self.rank_megabytes = max(self.rank_megabytes, pss / 1e6)
            self.megabytes = max(self.megabytes, total / 1e6)
            pause = max(_SAMPLE_SECONDS, (time.thread_time() - started) / _LARGEST_SHARE)
