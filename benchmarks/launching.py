"""Launch two ranks that do nothing in a running Spark session: this project's launcher alternating with `horovod.spark.run`.

The first call of a process imports TensorFlow and Horovod for all later ranks, which a training does while Spark starts; it is
reported separately.

python benchmarks/launching.py ROUNDS    seconds of the first call and ROUNDS more of each, as JSON
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import ROOT, run

GOAL_SECONDS = 3.0


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Seconds from the call to the last rank's result, in one Spark session of two slots."""
    with tempfile.TemporaryDirectory() as home:
        finished = run([sys.executable, str(ROOT / "benchmarks/launching.py"), str(rounds)], Path(home))
    seconds: dict[str, list[float]] = json.loads(finished.output.splitlines()[-1])
    return {
        "first": {who: calls[0] for who, calls in seconds.items()},
        "seconds": {who: calls[1:] for who, calls in seconds.items()},
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    medians = {who: statistics.median(seconds) for who, seconds in result["seconds"].items()}
    text = [
        f"{who:24} {medians[who]:5.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), first call {result['first'][who]:.1f} s"
        for who, seconds in result["seconds"].items()
    ]
    convoy, peer = medians.values()
    return [*text, f"ratio {convoy / peer:.2f}; goal: at most {GOAL_SECONDS:.0f} s"]


def ratios(result: dict[str, Any]) -> dict[str, list[float]]:
    """Ratios for the chart: higher is better."""
    convoy, peer = result["seconds"].values()
    return {
        "launch of two ranks, time of horovod.spark.run to ours": [
            theirs / ours for theirs, ours in zip(peer, convoy, strict=True)
        ]
    }


def nothing() -> int:
    """The function that each rank runs."""
    import horovod.tensorflow as hvd

    hvd.init()
    return int(hvd.rank())


def compare(rounds: int) -> dict[str, list[float]]:
    import horovod.spark
    from pyspark.sql import SparkSession

    from pipelines.launch import ranks

    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    # The first stage of a session starts Spark's Python workers.
    spark.sparkContext.parallelize(range(2), 2).map(lambda number: number).collect()
    ways = {
        "pipelines.launch.ranks": lambda: ranks.run(nothing, 2, spark=spark),
        "horovod.spark.run": lambda: horovod.spark.run(nothing, num_proc=2, verbose=0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, call in ways.items():
            started = time.monotonic()
            assert call() == [0, 1]
            seconds[name].append(round(time.monotonic() - started, 2))
    spark.stop()
    return seconds


if __name__ == "__main__":
    print(json.dumps(compare(int(sys.argv[1]))))
