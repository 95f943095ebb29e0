"""The input path alone: rows a second that reach a training step, from memory and streamed, and what streaming keeps in memory;
and how well the rows are shuffled.

MNIST's table is written once; larger ones are the same files several times over. Each figure is a process of its own with one
thread for the path, as a worker has it. The step does nothing but take the batch, 16 of them in a call into TensorFlow, as
`training.steps_per_execution: 16` has it.

    python benchmarks/input_pipeline.py TABLE_URI TIMES memory|stream    one speed, as JSON
    python benchmarks/input_pipeline.py TABLE_URI order memory|stream    how two epochs are ordered, as JSON
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convoy_runs import train
from processes import ROOT, run

if TYPE_CHECKING:
    from pipelines.data.stream.batches import TrainingData

BATCH_SIZE, STEPS_PER_EXECUTION = 128, 16
# Rows of a sliding window, in which labels should be as frequent as in all rows.
WINDOW = 10 * BATCH_SIZE
EPOCHS = 3
GOALS = {"memory": 300_000, "stream": 150_000}
TIMES = (1, 4, 16)


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """From memory with MNIST itself; streamed with 1, 4 and 16 times as many rows."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        _, summary = train(Path(home), data, "convnet", "training.epochs=1")
        table = str(Path(home) / summary.table)
        for _ in range(rounds):
            for way, times in [("memory", 1), *(("stream", times) for times in TIMES)]:
                finished = run([sys.executable, str(ROOT / "benchmarks/input_pipeline.py"), table, str(times), way], Path(home))
                rows.append({"way": way, "times": times, **json.loads(finished.output.splitlines()[-1])})
                print(f"  {rows[-1]}", flush=True)
        script = [sys.executable, str(ROOT / "benchmarks/input_pipeline.py"), table, "order"]
        orders = {way: json.loads(run([*script, way], Path(home)).output.splitlines()[-1]) for way in GOALS}
    return {"runs": rows, "orders": orders}


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
    for way, found in result["orders"].items():
        shown.append(
            f"{way:6}  two epochs' orders: rank correlation {found['correlation']:+.3f}; labels in {WINDOW:,} successive rows: "
            f"off by {found['deviations']:.1f} standard deviations at most"
        )
    return shown


def training_data(table_uri: str, times: int, way: str) -> "tuple[TrainingData, int]":
    """What a rank would read whose shard is the whole table so many times over, on one thread; and the steps of an epoch."""
    import tensorflow as tf

    from pipelines.config import StreamConfig
    from pipelines.data.stream.batches import Shard, TrainingData
    from pipelines.data.stream.sharding import RowRange
    from pipelines.data.table.schema import MANIFEST_NAME, Table, TableManifest

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    file = Path(table_uri) / MANIFEST_NAME
    manifest = TableManifest.from_json(file.read_text(), str(file))
    once = manifest.splits["train"]
    split = dataclasses.replace(once, rows=once.rows * times, files=once.files * times)
    table = Table(table_uri, dataclasses.replace(manifest, splits={**manifest.splits, "train": split}))
    stream = StreamConfig() if way == "memory" else StreamConfig(memory_limit_mb=0)
    steps = split.rows // BATCH_SIZE
    shard = Shard(table=table, split="train", rows=RowRange(0, split.rows), stream=stream)
    return TrainingData(shard, steps=steps, batch_size=BATCH_SIZE, seed=1), steps


def feed(table_uri: str, times: int, way: str) -> dict[str, float]:
    """Rows a second over whole epochs after the first, and how far the resident memory rose above what it was before reading."""
    import psutil
    import tensorflow as tf

    # What TensorFlow itself takes is not counted.
    process, before, peak = psutil.Process(), psutil.Process().memory_info().rss, 0
    data, steps = training_data(table_uri, times, way)
    dataset, seconds = data.dataset(), []

    @tf.function
    def take(batches: Any, steps: tf.Tensor) -> tf.Tensor:
        taken = 0
        for _ in tf.range(steps):
            images, _ = next(batches)
            taken += tf.shape(images)[0]
        return taken

    for epoch in range(EPOCHS):
        data.begin(epoch)
        started, taken, batches = time.monotonic(), 0, iter(dataset)
        for first in range(0, steps, STEPS_PER_EXECUTION):
            taken += int(take(batches, tf.constant(min(STEPS_PER_EXECUTION, steps - first))))
            if first % (10 * STEPS_PER_EXECUTION) == 0:
                peak = max(peak, process.memory_info().rss)
        assert taken == steps * BATCH_SIZE
        seconds.append(time.monotonic() - started)
    speed = steps * BATCH_SIZE / statistics.median(seconds[1:])
    return {"rows_per_second": round(speed), "growth_mb": round((peak - before) / 1e6)}


def order(table_uri: str, way: str) -> dict[str, float]:
    """How two successive epochs resemble each other, and how far labels are from being spread evenly over the first.

    Returns:
        correlation: of the places of a row in the one and in the other (Spearman's; 0 for independent orders).
        deviations: of the share of a label in a sliding window from its share in all rows, in standard deviations of a window
            that was drawn at random; the largest of all windows and labels.
    """
    import numpy as np

    data, _ = training_data(table_uri, 1, way)
    dataset, epochs = data.dataset(), []
    for epoch in range(2):
        data.begin(epoch)
        epochs.append(
            [
                (image.tobytes(), int(label))
                for images, labels in dataset.as_numpy_iterator()
                for image, label in zip(images, labels, strict=True)
            ]
        )
    places = {image: place for place, (image, _) in enumerate(epochs[0])}
    both = np.array([(places[image], place) for place, (image, _) in enumerate(epochs[1]) if image in places])
    labels = np.array([label for _, label in epochs[0]])
    largest = 0.0
    for label in np.unique(labels):
        is_it = labels == label
        share, so_far = is_it.mean(), np.concatenate([[0], np.cumsum(is_it)])
        shares = (so_far[WINDOW:] - so_far[:-WINDOW]) / WINDOW
        largest = max(largest, float(np.abs(shares - share).max() / np.sqrt(share * (1 - share) / WINDOW)))
    return {"correlation": round(float(np.corrcoef(both.T)[0, 1]), 4), "deviations": round(largest, 2)}


if __name__ == "__main__":
    uri, what, way = sys.argv[1:4]
    print(json.dumps(order(uri, way) if what == "order" else feed(uri, int(what), way)))
