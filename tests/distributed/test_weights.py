"""Weights of rows and classes over ranks: the mean of the ranks' gradients is that of Keras on the global batch."""

import keras
import numpy as np
import pytest
from support.equal_to_keras import by_keras
from support.synthetic import write_features_table

from pipelines.config import loader
from pipelines.launch.ranks import run
from pipelines.launch.train_function import work
from pipelines.track.rundir.events import SpoolReader

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    ("workers", "task", "more"),
    [(2, "regression", ()), (3, "classification", ("training.class_weights=[0.5, 1, 4]",))],
    ids=["two workers, numbers", "three workers, classes"],
)
def test_weights_are_right_in_the_mean_over_ranks(tmp_path, workers, task, more):
    table = write_features_table(
        tmp_path / "table", {"train": 610, "validation": 40, "test": 43}, task=task, weighted=True, targets=2
    )
    settings = [
        *("model.name=mlp", f"data.task={task}", "data.classes=3", "training.epochs=2", "training.batch_size_per_worker=16"),
        *("training.precision=float32", "training.learning_rate_scaling=none", "training.custom_kernels=false"),
        *(f"launch.workers={workers}", *more),
    ]
    config = loader.load(None, settings)
    results = run(work, -workers, (config, table, str(tmp_path / "run")), launch=config.launch)
    expected, losses = by_keras(table, settings, epochs=2, workers=workers)
    (saved,) = (tmp_path / "run" / "model").rglob("*.keras")
    for ours, theirs in zip(keras.models.load_model(saved).get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    events = [event.values for event in SpoolReader(tmp_path / "run" / "spool").new_events() if event.kind == "epoch"]
    assert [event.metrics["train/loss"] for event in events[:2]] == pytest.approx(losses, rel=1e-4)
    # Metrics are of all ranks' rows, whose weights differ in sum.
    assert all(result.test == results[0].test for result in results)
    by_rank = [[event.metrics for event in events if event.epoch == epoch] for epoch in (1, 2)]
    metric = "train/rmse" if task == "regression" else "train/accuracy"
    assert all(len({metrics[metric] for metrics in epoch}) == 1 and len(epoch) == workers for epoch in by_rank)
