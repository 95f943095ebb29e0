"""Fixed costs: seconds from the submission of a training to its first step, with the table ready, and the memory of all its
processes, including Spark's. Network `convnet`, one epoch.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from convoy_runs import train

# 3 and 4 GiB.
MOST_MB = {"1": 3221, "2": 4295}


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """The first run ingests and is not counted; then 1 and 2 workers alternate."""
    seconds: dict[str, list[float]] = {"1": [], "2": []}
    total: dict[str, list[float]] = {"1": [], "2": []}
    peak: dict[str, list[float]] = {"1": [], "2": []}
    with tempfile.TemporaryDirectory() as home:
        train(Path(home), data, "convnet", "training.epochs=1")
        for _ in range(rounds):
            for workers in (1, 2):
                finished, summary = train(Path(home), data, "convnet", "training.epochs=1", workers=workers)
                seconds[str(workers)].append(summary.seconds.first_step)
                total[str(workers)].append(round(finished.seconds, 1))
                peak[str(workers)].append(round(finished.peak_mb))
    return {"first_step_seconds": seconds, "whole_process_seconds": total, "peak_mb": peak}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    return [
        f"{workers} worker{'s' if workers != '1' else ' '}  first step after {statistics.median(seconds):.1f} s "
        f"({min(seconds):.1f} to {max(seconds):.1f}), whole process "
        f"{statistics.median(result['whole_process_seconds'][workers]):.1f} s, peak memory of its processes "
        f"{statistics.median(result['peak_mb'][workers]):,.0f} MB (goal: at most {MOST_MB[workers]:,})"
        for workers, seconds in result["first_step_seconds"].items()
    ]
