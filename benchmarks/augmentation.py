"""The cost of augmenting training images: rows per second on one core, by kind of transformation.

python benchmarks/augmentation.py    prints JSON
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import ROOT, run

BATCH_SIZE = 128
BATCHES = 300
CHANGES: dict[str, dict[str, float]] = {
    "affine": {"shift": 0.08, "rotation": 12.0, "scale": 0.12, "shear": 0.15},
    "affine and flip": {"shift": 0.08, "rotation": 12.0, "scale": 0.12, "shear": 0.15, "flip": True},
    "affine and elastic": {"shift": 0.08, "rotation": 12.0, "scale": 0.12, "shear": 0.15, "elastic": 0.03},
}


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Batches of 28 x 28 uint8 images, in a process with one thread."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds):
            finished = run([sys.executable, str(ROOT / "benchmarks/augmentation.py")], Path(home))
            rows.append(json.loads(finished.output.splitlines()[-1]))
            print(f"  {rows[-1]}", flush=True)
    return {"rows_per_second": rows}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    speeds = {name: [row[name] for row in result["rows_per_second"]] for name in CHANGES}
    return [
        f"{name:20} {statistics.median(rates):9,.0f} rows/s ({min(rates):,.0f} to {max(rates):,.0f})"
        for name, rates in speeds.items()
    ]


def speed(changes: dict[str, float]) -> float:
    """Rows per second through the augmentation alone."""
    import numpy as np
    import tensorflow as tf

    from pipelines.data.stream.augment import Augmentation, augmented

    augmentation = Augmentation(**changes)  # type: ignore[arg-type]
    images = tf.constant(np.random.default_rng(1).integers(0, 256, (BATCH_SIZE, 28, 28, 1)), tf.uint8)
    keys = tf.data.Dataset.from_tensor_slices(np.arange(2 * BATCHES, dtype=np.int64).reshape(-1, 2))
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    changed = keys.map(lambda key: augmented(images, key, augmentation)).with_options(options)
    for _ in changed.take(10):
        continue
    started = time.monotonic()
    for _ in changed:
        continue
    return BATCH_SIZE * BATCHES / (time.monotonic() - started)


if __name__ == "__main__":
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    print(json.dumps({name: round(speed(changes)) for name, changes in CHANGES.items()}))
