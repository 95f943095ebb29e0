"""The cost of tracking: trainings with an MLflow store alternating with ones whose tracking server does not answer.

Trainings vary by more than tracking costs, so the processor time of tracking during training is reported as well.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from convoy_runs import train

GOAL = 0.01
# Nothing listens there, so actions stay in the journal of the run's folder.
NOBODY = "http://127.0.0.1:9"
SETTINGS = ("training.epochs=10", "training.batch_size_per_worker=128")


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Seconds of the training (first step to last) and of the whole process, and core-seconds of tracking during training."""
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    whole: dict[str, list[float]] = {"on": [], "off": []}
    computed: list[float] = []
    ways = {"on": (), "off": (f"tracking.uri={NOBODY}", "tracking.finish_timeout_seconds=0")}
    with tempfile.TemporaryDirectory() as home:
        train(Path(home), data, "convnet", "training.epochs=1")
        for number in range(rounds):
            # Each goes first equally often, because a machine's speed drifts.
            for way in sorted(ways, reverse=number % 2 == 0):
                finished, summary = train(Path(home), data, "convnet", *SETTINGS, *ways[way])
                seconds[way].append(summary.seconds.train)
                whole[way].append(round(finished.seconds, 1))
                if way == "on":
                    computed.append(summary.tracking_processor_seconds)
    return {
        "train_seconds": seconds,
        "whole_process_seconds": whole,
        "processor_seconds": computed,
        "cores": len(os.sched_getaffinity(0)),
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    on, off = (statistics.median(result["train_seconds"][way]) for way in ("on", "off"))
    text = [
        f"tracking {way:3}  training {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
        f"whole process {statistics.median(result['whole_process_seconds'][way]):.1f} s"
        for way, seconds in result["train_seconds"].items()
    ]
    computed, seconds = statistics.median(result["processor_seconds"]), result["train_seconds"]["on"]
    return [
        *text,
        f"training time with tracking: {on / off - 1:+.1%}",
        f"tracking used {computed:.2f} core-seconds during training on {result['cores']} cores "
        f"({min(result['processor_seconds']):.2f} to {max(result['processor_seconds']):.2f}): "
        f"{computed / result['cores'] / statistics.median(seconds):.1%} of their capacity; goal: less than {GOAL:.0%}",
    ]
