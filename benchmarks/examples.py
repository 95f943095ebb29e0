"""The examples with one and three workers, and plain Keras on the same rows: is what they reach the same?

Each round is a seed. Plain Keras trains the same network on the rows of the table that Convoy has written, with `compile` and
`fit`, Adam, the same learning rate, global batch and epochs. Both are measured on the same test rows. For fine-tuning there is
also what the same rows give from random weights in the same epochs.
"""

import fnmatch
import os
import runpy
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines import api
from pipelines.data.table.row_parts import of_table
from pipelines.data.table.schema import Split, Table
from pipelines.system import paths
from pipelines.track.finished_run import FinishedRun

FOLDER = Path(__file__).resolve().parents[1] / "examples"
WORKERS = (1, 3)
SCRATCH = "scratch"
# Rows of a step of all workers together.
_BATCH = {"tabular": 48, "regression": 48, "own_network": 48, "fine_tuning": 24, "libsvm": 48}
# What the runs of an example are compared by.
METRICS = {
    "fine_tuning": "accuracy",
    "tabular": "accuracy",
    "regression": "rmse",
    "own_network": "accuracy",
    "libsvm": "accuracy",
}


def measure(_data: Path, rounds: int, _results: Path) -> dict[str, Any]:
    """Seeds 1 to `rounds` of every example."""
    with tempfile.TemporaryDirectory() as folder:
        # Each worker needs a task slot, whatever the number of cores.
        spark = f"--master local[{max(WORKERS)}] --conf spark.ui.enabled=false pyspark-shell"
        os.environ |= {
            "CONVOY_HOME": folder,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYSPARK_SUBMIT_ARGS": spark,
        }
        return {name: compared(name, Path(folder), range(1, rounds + 1)) for name in METRICS}


def compared(name: str, home: Path, seeds: range) -> dict[str, list[float]]:
    """The test metric of each seed, by who has trained: `1 worker`, `3 workers`, `Keras`, and `scratch` with one worker."""
    metric = f"test/{METRICS[name]}"
    found: dict[str, list[float]] = {"1 worker": [], "3 workers": [], "Keras": []}
    for seed in seeds:
        for workers in WORKERS:
            *others, run = run_example(name, home, workers, seed)
            found[f"{workers} worker{'s' if workers > 1 else ''}"].append(run.metrics[metric])
            if workers == 1 and others:
                found.setdefault(SCRATCH, []).extend(other.metrics[metric] for other in others)
        found["Keras"].append(in_keras(name, run, seed))
        print(f"  {name}, seed {seed}: {', '.join(f'{who} {values[-1]:.4f}' for who, values in found.items())}", flush=True)
    return found


def run_example(name: str, home: Path, workers: int, seed: int) -> tuple[FinishedRun, ...]:
    """An example with another number of workers, which share its batch, and another seed. The last run is what it is about."""
    settings = {"training.batch_size_per_worker": _BATCH[name] // workers, "training.seed": seed}
    if name != "libsvm":
        runs = runpy.run_path(str(FOLDER / name / "train.py"))["main"](workers, settings)
        return runs if isinstance(runs, tuple) else (runs,)
    if not (home / "tumours").exists():
        runpy.run_path(str(FOLDER / name / "write.py"))["main"](home / "tumours")
    return (api.train(home / "tumours/train", workers=workers, settings=settings, config=FOLDER / name / "config.yml"),)


def in_keras(name: str, run: FinishedRun, seed: int) -> float:
    """The metric on the same test rows after a training by Keras alone."""
    import keras

    from pipelines.models import registry

    keras.utils.set_random_seed(seed)
    config, manifest = run.config, run.table.manifest
    network = registry.build(config.model.name, manifest.spec, manifest.num_outputs, config.model.arguments)
    if config.model.weights:
        earlier = {layer.name: layer for layer in api.load(config.model.weights).layers}
        for layer in network.layers:
            weights = earlier[layer.name].get_weights()
            if [each.shape for each in weights] == [each.shape for each in layer.get_weights()]:
                layer.set_weights(weights)
            layer.trainable = not any(fnmatch.fnmatch(layer.name, pattern) for pattern in config.model.frozen)
    (inputs, targets), (test_inputs, test_targets) = rows(run.table, "train"), rows(run.table, "test")
    is_regression = config.data.task == "regression"
    loss = "mse" if is_regression else "sparse_categorical_crossentropy"
    own = FOLDER / name / "network.py"
    mean, deviation = (targets.mean(axis=0), targets.std(axis=0)) if is_regression else (0, 1)
    network.compile(
        keras.optimizers.Adam(config.training.base_learning_rate), runpy.run_path(str(own))["LOSS"] if own.exists() else loss
    )
    network.fit(inputs, (targets - mean) / deviation, batch_size=_BATCH[name], epochs=config.training.epochs, verbose=0)
    given = network.predict(test_inputs, verbose=0)
    if is_regression:
        return float(np.sqrt(np.mean((given * deviation + mean - test_targets) ** 2)))
    return float(np.mean(given.argmax(axis=1) == test_targets))


def rows(table: Table, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [n, ...] float32 and targets of a split, in the order of the table."""
    found, folder = [], paths.to_python(table.uri)
    for part in of_table(table.manifest)[:2]:
        columns = [pq.read_table(folder / file.path)[part.column] for file in table.manifest.splits[split].files]
        values = [value for column in columns for value in column.to_pylist()]
        if part.is_binary:
            dtype = np.dtype(part.dtype).newbyteorder("<")
            found.append(np.stack([np.frombuffer(value, dtype).reshape(part.shape) for value in values]).astype(np.float32))
        else:
            found.append(np.array(values))
    return found[0], found[1]


def within_spread(found: Mapping[str, list[float]]) -> bool:
    """Whether the mean of each is within the range of the others, widened by half the range of all; without `scratch`."""
    compared = {who: values for who, values in found.items() if who != SCRATCH}
    everything = [value for values in compared.values() for value in values]
    # Not of the others alone: with few test rows they may all have the same value.
    margin = (max(everything) - min(everything)) / 2
    for who, values in compared.items():
        others = [value for other, each in compared.items() if other != who for value in each]
        if not min(others) - margin <= statistics.mean(values) <= max(others) + margin:
            return False
    return True


def lines(result: Mapping[str, Mapping[str, list[float]]]) -> Iterator[str]:
    """The result as text."""
    for name, found in result.items():
        cells = [f"{who} {statistics.mean(each):.4f} ({min(each):.4f} to {max(each):.4f})" for who, each in found.items()]
        yield f"{name:<12} {METRICS[name]:<9} {'  '.join(cells)}  {'equal' if within_spread(dict(found)) else 'DIFFERENT'}"
