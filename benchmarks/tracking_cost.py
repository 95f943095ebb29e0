"""What tracking costs: one training with an MLflow store, and one whose tracking server does not answer, in turn."""

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
    """Seconds of the training itself, from its first step to its last; and those of the whole process."""
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    whole: dict[str, list[float]] = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as home:
        train(Path(home), data, "convnet", "training.epochs=1")
        for _ in range(rounds):
            for way, more in (("on", ()), ("off", (f"tracking.uri={NOBODY}", "tracking.finish_timeout_seconds=0"))):
                finished, summary = train(Path(home), data, "convnet", *SETTINGS, *more)
                seconds[way].append(summary["seconds"]["train"])
                whole[way].append(round(finished.seconds, 1))
    return {"train_seconds": seconds, "whole_process_seconds": whole}


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    on, off = (statistics.median(result["train_seconds"][way]) for way in ("on", "off"))
    shown = [
        f"tracking {way:3}  training {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
        f"whole process {statistics.median(result['whole_process_seconds'][way]):.1f} s"
        for way, seconds in result["train_seconds"].items()
    ]
    return [*shown, f"tracking costs {on / off - 1:+.1%} of the training; less than {GOAL:.0%} asked"]
