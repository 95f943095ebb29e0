"""Rows per second over whole epochs: plain Keras in memory in float32, alternating with this project with 1 and 2 workers.

The workers also train with a batch four times as large, with which they communicate a quarter as often.

python benchmarks/training_rate.py FOLDER NETWORK BATCH EPOCHS    plain Keras alone, as JSON
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from convoy_runs import train
from processes import ROOT, run

NETWORKS = ("convnet", "convnet_dropout")
BATCH_SIZE, LARGE_BATCH_SIZE = 128, 512
# The first epoch traces the step and is not counted.
EPOCHS = 3
# `fit` waits between epochs for a thread that tunes its input, up to half an epoch (README.md).
KERAS = {"keras": "Keras float32", "keras_steps": "Keras float32 without its waits"}


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """Every round measures each network once per method; all read the same 60,000 rows."""
    rows: list[dict[str, Any]] = []
    settings = (f"training.epochs={EPOCHS}", "ingest.validation_fraction=0")
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds):
            for network in NETWORKS:
                command = [sys.executable, str(ROOT / "benchmarks/training_rate.py"), str(data), network]
                plain = run([*command, str(BATCH_SIZE), str(EPOCHS)], Path(home))
                row: dict[str, Any] = {"network": network, **json.loads(plain.output.splitlines()[-1])}
                for batch in (BATCH_SIZE, LARGE_BATCH_SIZE):
                    for workers in (1, 2):
                        batch_setting = f"training.batch_size_per_worker={batch}"
                        _, summary = train(Path(home), data, network, *settings, batch_setting, workers=workers)
                        row[f"convoy_{workers}_{batch}"] = summary.rows_per_second
                rows.append(row)
                print(f"  {row}", flush=True)
    return {"rounds": rows}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    text = []
    for network in NETWORKS:
        rounds = [row for row in result["rounds"] if row["network"] == network]
        speed = {way: statistics.median(row[way] for row in rounds) for way in rounds[0] if way != "network"}
        for way, name in KERAS.items():
            to_keras = statistics.median(_to_keras(rounds, way))
            text.append(
                f"{network:16} batch {BATCH_SIZE}  {name} {speed[way]:7,.0f} rows/s, 1 worker {to_keras:.2f} times as fast"
            )
        for batch in (BATCH_SIZE, LARGE_BATCH_SIZE):
            one, two = (speed[f"convoy_{workers}_{batch}"] for workers in (1, 2))
            efficiency = statistics.median(_efficiencies(rounds, batch))
            text.append(
                f"{network:16} batch {batch}  1 worker {one:7,.0f} rows/s, 2 workers {two:7,.0f} ({efficiency:.0%} of 1 worker)"
            )
    return text


def ratios(result: dict[str, Any]) -> dict[str, list[float]]:
    """Ratios for the chart: higher is better."""
    ratios_by_name: dict[str, list[float]] = {}
    for network in NETWORKS:
        rounds = [row for row in result["rounds"] if row["network"] == network]
        for way, name in KERAS.items():
            ratios_by_name[f"{network}, rows/s of 1 worker to {name}"] = _to_keras(rounds, way)
        for batch in (BATCH_SIZE, LARGE_BATCH_SIZE):
            ratios_by_name[f"{network}, batch {batch}, rows/s of 2 workers to 1 worker"] = _efficiencies(rounds, batch)
    return ratios_by_name


def _to_keras(rounds: list[dict[str, Any]], way: str) -> list[float]:
    return [row[f"convoy_1_{BATCH_SIZE}"] / row[way] for row in rounds]


def _efficiencies(rounds: list[dict[str, Any]], batch: int) -> list[float]:
    return [row[f"convoy_2_{batch}"] / row[f"convoy_1_{batch}"] for row in rounds]


def plain_keras(folder: Path, network: str, batch_size: int, epochs: int) -> dict[str, int]:
    """Rows per second of the same network trained by `fit` from arrays, without the first epoch: overall, and within epochs."""
    import keras
    from sklearn.datasets import load_svmlight_file

    from pipelines.data.table.schema import DataSpec
    from pipelines.models import registry

    x, y = load_svmlight_file(str(next(folder.glob("*train*"))), n_features=784)
    images = x.toarray().reshape(-1, 28, 28, 1).astype("float32")
    model = registry.build(network, DataSpec(shape=(28, 28, 1), dtype="uint8", value_range=(0.0, 255.0)), 10)
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    begins: list[float] = []
    last_steps: list[float] = []
    ends: list[float] = []
    recorder = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: (begins.append(time.monotonic()), last_steps.append(0.0)),
        on_train_batch_end=lambda batch, logs: last_steps.__setitem__(-1, time.monotonic()),
        on_epoch_end=lambda epoch, logs: ends.append(time.monotonic()),
    )
    model.fit(images, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[recorder])
    rows = len(images) * (epochs - 1)
    within = sum(last - begin for begin, last in zip(begins[1:], last_steps[1:], strict=True))
    return {"keras": round(rows / (ends[-1] - ends[0])), "keras_steps": round(rows / within)}


if __name__ == "__main__":
    print(json.dumps(plain_keras(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
