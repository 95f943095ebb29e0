"""The input path alone: rows a second that reach a training step, from memory and streamed, and what streaming keeps in memory.

MNIST's table is written once; larger ones are the same files several times over. Each figure is a process of its own with one
thread for the path, as a worker has it. The step does nothing but take the batch.

    python benchmarks/input_pipeline.py TABLE_URI TIMES memory|stream    one figure, as JSON
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from convoy_runs import train
from processes import ROOT, run

BATCH_SIZE = 128
EPOCHS = 3
GOALS = {"memory": 300_000, "stream": 150_000}
TIMES = (1, 4, 16)


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """From memory with MNIST itself; streamed with 1, 4 and 16 times as many rows."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        _, summary = train(Path(home), data, "convnet", "training.epochs=1")
        table = str(Path(home) / summary["table"])
        for _ in range(rounds):
            for way, times in [("memory", 1), *(("stream", times) for times in TIMES)]:
                finished = run([sys.executable, str(ROOT / "benchmarks/input_pipeline.py"), table, str(times), way], Path(home))
                rows.append({"way": way, "times": times, **json.loads(finished.output.splitlines()[-1])})
                print(f"  {rows[-1]}", flush=True)
    return {"runs": rows}


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    shown = []
    for way, times in [("memory", 1), *(("stream", times) for times in TIMES)]:
        runs = [run for run in result["runs"] if (run["way"], run["times"]) == (way, times)]
        speeds = [run["rows_per_second"] for run in runs]
        shown.append(
            f"{way:6} {times:2}x MNIST  {statistics.median(speeds):9,.0f} rows/s ({min(speeds):,.0f} to {max(speeds):,.0f}), "
            f"asked {GOALS[way]:,}; growth of memory while reading {statistics.median(run['growth_mb'] for run in runs):.0f} MB"
        )
    return shown


def feed(table_uri: str, times: int, way: str) -> dict[str, float]:
    """Rows a second over whole epochs after the first, and how far the resident memory rose above what it was before reading."""
    import psutil
    import tensorflow as tf

    from pipelines.config import StreamConfig
    from pipelines.schema import MANIFEST_NAME, Table, TableManifest
    from pipelines.stream.batches import Shard, TrainingData
    from pipelines.stream.sharding import RowRange

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    file = Path(table_uri) / MANIFEST_NAME
    manifest = TableManifest.from_json(file.read_text(), str(file))
    once = manifest.splits["train"]
    split = dataclasses.replace(once, rows=once.rows * times, files=once.files * times)
    table = Table(table_uri, dataclasses.replace(manifest, splits={**manifest.splits, "train": split}))
    stream = StreamConfig() if way == "memory" else StreamConfig(memory_limit_mb=0)
    process, before, peak = psutil.Process(), psutil.Process().memory_info().rss, 0
    steps = split.rows // BATCH_SIZE
    shard = Shard(table=table, split="train", rows=RowRange(0, split.rows), stream=stream)
    data = TrainingData(shard, steps=steps, batch_size=BATCH_SIZE, seed=1)
    dataset, seconds = data.dataset(), []
    for epoch in range(EPOCHS):
        data.begin(epoch)
        started, taken = time.monotonic(), 0
        for images, _ in dataset:
            taken += len(images)
            if taken % (BATCH_SIZE * 50) == 0:
                peak = max(peak, process.memory_info().rss)
        assert taken == steps * BATCH_SIZE
        seconds.append(time.monotonic() - started)
    speed = steps * BATCH_SIZE / statistics.median(seconds[1:])
    return {"rows_per_second": round(speed), "growth_mb": round((peak - before) / 1e6)}


if __name__ == "__main__":
    print(json.dumps(feed(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
