"""What tracking costs: one training with an MLflow store, and one whose tracking server does not answer, in turn.

Trainings differ by more than tracking costs, so what the tracking of the first computes while it trains is told, too.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from convoy_runs import train

GOAL = 0.01
# Nothing listens on it, so that actions stay in the journal of the run's folder.
NOBODY = "http://127.0.0.1:9"
SETTINGS = ("training.epochs=10", "training.batch_size_per_worker=128")


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Seconds of the training, first step to last; of the whole process; and of a core, which tracking took in training."""
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    whole: dict[str, list[float]] = {"on": [], "off": []}
    computed: list[float] = []
    ways = {"on": (), "off": (f"tracking.uri={NOBODY}", "tracking.finish_timeout_seconds=0")}
    with tempfile.TemporaryDirectory() as home:
        train(Path(home), data, "convnet", "training.epochs=1")
        for number in range(rounds):
            # Each is first as often as the other, because machines slow down and speed up.
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
    """The result for people."""
    on, off = (statistics.median(result["train_seconds"][way]) for way in ("on", "off"))
    shown = [
        f"tracking {way:3}  training {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
        f"whole process {statistics.median(result['whole_process_seconds'][way]):.1f} s"
        for way, seconds in result["train_seconds"].items()
    ]
    computed, seconds = statistics.median(result["processor_seconds"]), result["train_seconds"]["on"]
    return [
        *shown,
        f"training took {on / off - 1:+.1%} with tracking",
        f"while it trained, tracking computed {computed:.2f} s of the {result['cores']} cores "
        f"({min(result['processor_seconds']):.2f} to {max(result['processor_seconds']):.2f}): "
        f"{computed / result['cores'] / statistics.median(seconds):.1%} of what they can do; less than {GOAL:.0%} asked",
    ]
