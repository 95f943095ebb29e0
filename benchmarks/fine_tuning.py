"""Epochs until a network knows the digits 5 to 9 from few rows: from convolutions trained on 0 to 4, and from scratch."""

import json
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convoy_runs import repeated, train

EPOCHS = 8
ACCURACIES = (0.9, 0.95)
# One line in 25 of the training text, half of them for validation: some 590 rows of the digits 5 to 9 to train on. With all rows
# there is nothing to gain.
_ONE_LINE_IN = 25
_FEW_ROWS = ("ingest.validation_fraction=0.5", "training.batch_size_per_worker=16", f"training.epochs={EPOCHS}")
NETWORK = """
import keras
from keras import layers

def build(spec, outputs, head):
    inputs = keras.Input(spec.shape)
    features = layers.Conv2D(16, 3, activation="relu", name="convolution_1")(layers.Rescaling(1 / 255)(inputs))
    features = layers.MaxPooling2D()(features)
    features = layers.Conv2D(32, 3, activation="relu", name="convolution_2")(features)
    features = layers.Flatten()(layers.MaxPooling2D()(features))
    features = layers.Dense(128, activation="relu", name=f"hidden_{head}")(features)
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", dtype="float32", name=f"head_{head}")(features))
"""


def measure(data: Path, rounds: int, results: Path) -> dict[str, Any]:
    """One seed each round: the digits 0 to 4, then few rows of 5 to 9 from those weights and from scratch."""
    by_seed = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "network.py").write_text(NETWORK)
        few = repeated(data, home / "few", 1)
        lines = (few / "train.libsvm").read_bytes().splitlines(keepends=True)
        (few / "train.libsvm").write_bytes(b"".join(lines[::_ONE_LINE_IN]))
        for seed in range(1, rounds + 1):
            first = _train(home, data, range(5), seed, "low", "training.epochs=1")
            weights = f"model.weights={first / 'model/data/model.keras'}"
            fine_tuned = _validation(_train(home, few, range(5, 10), seed, "high", *_FEW_ROWS, weights))
            scratch = _validation(_train(home, few, range(5, 10), seed, "high", *_FEW_ROWS))
            by_seed.append({"fine_tuned": fine_tuned, "scratch": scratch})
            print(f"  {by_seed[-1]}", flush=True)
    return {"validation_accuracy": by_seed}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as text."""
    shown = []
    for kind in ("fine_tuned", "scratch"):
        histories = [seed[kind] for seed in result["validation_accuracy"]]
        shown.append(f"{kind:10} after epoch 1: {statistics.mean(history[0] for history in histories):.4f}")
        for accuracy in ACCURACIES:
            epochs = [_epochs(history, accuracy) for history in histories]
            shown.append(f"{kind:10} {accuracy:.1%} after {', '.join(epochs)} epochs")
    return shown


def _epochs(history: list[float], accuracy: float) -> str:
    found = next((epoch for epoch, value in enumerate(history, 1) if value >= accuracy), None)
    return str(found) if found is not None else f"more than {EPOCHS}"


def _train(home: Path, data: Path, digits: Iterable[int], seed: int, head: str, *settings: str) -> Path:
    """The folder of the run."""
    common = [
        f"model.name={home}/network.py:build",
        f"model.arguments={{head: {head}}}",
        f"data.labels={list(digits)}",
        "data.classes=5",
        "ingest.on_bad_rows=quarantine",
        "ingest.max_bad_fraction=0.9",
        f"training.seed={seed}",
        "training.early_stopping_patience=0",
        "launch.workers=1",
    ]
    _, summary = train(home, data, "convnet", *common, *settings)
    return Path(summary.run_dir)


def _validation(run_dir: Path) -> list[float]:
    events = [json.loads(line) for line in (run_dir / "spool/rank-0.jsonl").read_text().splitlines()]
    return [event["values"]["metrics"]["validation/accuracy"] for event in events if event["kind"] == "epoch"]
