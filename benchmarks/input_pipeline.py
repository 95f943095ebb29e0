"""The input pipeline alone: rows per second that reach a training step, from memory and streamed, the processor time of a row,
which other load changes less, the memory that streaming holds, and the quality of shuffling.

MNIST's table is written once; larger ones repeat the same files. Each figure comes from its own process with one thread for the
pipeline, as in a worker. The step only takes the batch, 16 of them per call into TensorFlow, as with
`training.steps_per_execution: 16`.

    python benchmarks/input_pipeline.py TABLE_URI TIMES memory|stream    one speed, as JSON
    python benchmarks/input_pipeline.py TABLE_URI order memory|stream    the order of two epochs, as JSON
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
# Rows of a sliding window, in which labels should be as frequent as overall.
WINDOW = 10 * BATCH_SIZE
EPOCHS = 3
GOALS = {"memory": 300_000, "stream": 1_000_000}
TIMES = (1, 4, 16)


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """From memory with MNIST itself; streamed with 1, 4 and 16 times its rows."""
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
    """The result as text."""
    text = []
    for way, times in [("memory", 1), *(("stream", times) for times in TIMES)]:
        runs = [run for run in result["runs"] if (run["way"], run["times"]) == (way, times)]
        speeds = [run["rows_per_second"] for run in runs]
        text.append(
            f"{way:6} {times:2}x MNIST  {statistics.median(speeds):9,.0f} rows/s ({min(speeds):,.0f} to {max(speeds):,.0f}), "
            f"goal {GOALS[way]:,}; {statistics.median(run['core_us_per_row'] for run in runs):.2f} core-microseconds per row; "
            f"memory growth while reading {statistics.median(run['growth_mb'] for run in runs):.0f} MB"
        )
    for way, order in result["orders"].items():
        text.append(
            f"{way:6}  rank correlation of two epochs' orders {order['correlation']:+.3f}; label frequencies in {WINDOW:,} "
            f"consecutive rows deviate by at most {order['deviations']:.1f} standard deviations"
        )
    return text


def training_data(table_uri: str, times: int, way: str) -> "tuple[TrainingData, int]":
    """The data of a rank whose shard is the whole table repeated `times` times, on one thread; and the steps per epoch."""
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
    """Rows per second and microseconds of all cores per row, over whole epochs after the first; growth of resident memory since
    before reading."""
    import psutil
    import tensorflow as tf

    # TensorFlow's own memory is not counted.
    process, before, peak = psutil.Process(), psutil.Process().memory_info().rss, 0
    data, steps = training_data(table_uri, times, way)
    dataset, seconds, core_seconds = data.dataset(), [], []

    @tf.function
    def take(batches: Any, steps: tf.Tensor) -> tf.Tensor:
        taken = 0
        for _ in tf.range(steps):
            images, _ = next(batches)
            taken += tf.shape(images)[0]
        return taken

    for epoch in range(EPOCHS):
        data.begin(epoch)
        started, used, taken, batches = time.monotonic(), time.process_time(), 0, iter(dataset)
        for first in range(0, steps, STEPS_PER_EXECUTION):
            taken += int(take(batches, tf.constant(min(STEPS_PER_EXECUTION, steps - first))))
            if first % (10 * STEPS_PER_EXECUTION) == 0:
                peak = max(peak, process.memory_info().rss)
        assert taken == steps * BATCH_SIZE
        seconds.append(time.monotonic() - started)
        core_seconds.append(time.process_time() - used)
    rows = steps * BATCH_SIZE
    return {
        "rows_per_second": round(rows / statistics.median(seconds[1:])),
        "core_us_per_row": round(statistics.median(core_seconds[1:]) * 1e6 / rows, 2),
        "growth_mb": round((peak - before) / 1e6),
    }


def order(table_uri: str, way: str) -> dict[str, float]:
    """How similar the orders of two consecutive epochs are, and how unevenly labels are spread over the first.

    Returns:
        correlation: of a row's positions in the two epochs (Spearman's; 0 for independent orders).
        deviations: largest deviation, over all labels and sliding windows, of a label's frequency in the window from its overall
            frequency, in standard deviations of a randomly drawn window.
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
    positions = {image: position for position, (image, _) in enumerate(epochs[0])}
    pairs = np.array([(positions[image], position) for position, (image, _) in enumerate(epochs[1]) if image in positions])
    labels = np.array([label for _, label in epochs[0]])
    largest = 0.0
    for label in np.unique(labels):
        matches = labels == label
        share, cumulative = matches.mean(), np.concatenate([[0], np.cumsum(matches)])
        shares = (cumulative[WINDOW:] - cumulative[:-WINDOW]) / WINDOW
        largest = max(largest, float(np.abs(shares - share).max() / np.sqrt(share * (1 - share) / WINDOW)))
    return {"correlation": round(float(np.corrcoef(pairs.T)[0, 1]), 4), "deviations": round(largest, 2)}


if __name__ == "__main__":
    uri, what, way = sys.argv[1:4]
    print(json.dumps(order(uri, way) if what == "order" else feed(uri, int(what), way)))
