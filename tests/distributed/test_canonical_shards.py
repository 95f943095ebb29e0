"""The same training on any number of workers (`training.canonical_shards`), in real ranks on this machine."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support import canonical_ranks
from support.synthetic import write_table
from test_faults import train as train_with_faults

from pipelines.config import LaunchConfig
from pipelines.launch import slots
from pipelines.launch.ranks import run
from pipelines.train.checkpoint import store

SHARDS, STEPS = 4, 10
SETTINGS = (
    *("training.epochs=2", "training.batch_size_per_worker=16", "training.precision=float32"),
    *("training.schedule=cosine", f"training.canonical_shards={SHARDS}"),
)
RECIPES = {
    "memory": ("model.name=convnet_dropout", "training.augment_rotation=10", "training.augment_elastic=0.03"),
    "streamed": ("model.name=mlp", "stream.memory_limit_mb=0", "stream.shuffle_buffer_rows=50", "training.augment_shift=0.1"),
}
# Ten starts of up to four ranks: minutes on a machine with other work.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows that do not fill the last batch, and labels that cannot be learned, so that losses stay away from 0."""
    return write_table(tmp_path_factory.mktemp("t"), {"train": 663, "validation": 53, "test": 20}, learnable=False)


@dataclass
class Curve:
    """A training as all of its ranks saw it."""

    digests: list[list[str]]
    """Of the rows of each step, shard by shard."""
    losses: list[float]
    """Mean loss of each epoch up to each step, over ranks."""
    metrics: dict[int, dict[str, float]]
    weights_sha256: str


def train(table: Any, folder: Any, workers: int, settings: Any, start: Any = None, stop: Any = None) -> Curve:
    launch = LaunchConfig(runs_uri=str(folder), threads_per_worker=1)
    ranks = run(canonical_ranks.curve, -workers, (table.uri, list(settings), str(folder), start, stop), launch=launch)
    steps = range(len(ranks[0][1]))
    digests = [[digest for seen, *_ in ranks for digest in seen[step]] for step in steps]
    losses = [float(np.mean([loss[step] for _, loss, *_ in ranks])) for step in steps]
    return Curve(digests, losses, ranks[0][2], ranks[0][3])


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request):
    return (*SETTINGS, *RECIPES[request.param])


@pytest.fixture(scope="module")
def curves(table, recipe, tmp_path_factory):
    """The training with each number of workers."""
    return {workers: train(table, tmp_path_factory.mktemp("run"), workers, recipe) for workers in (1, 2, 4)}


def test_any_number_of_workers_sees_the_same_rows_in_the_same_steps(curves):
    assert curves[1].digests == curves[2].digests == curves[4].digests
    shapes = {len(step) for step in curves[1].digests}
    assert (len(curves[1].digests), shapes) == (2 * STEPS, {SHARDS})
    # No two shards, steps or epochs have the same rows, augmented alike.
    assert len({digest for step in curves[1].digests for digest in step}) == 2 * STEPS * SHARDS


def test_any_number_of_workers_has_the_same_losses_and_with_one_thread_the_same_weights(curves):
    for workers in (2, 4):
        np.testing.assert_allclose(curves[workers].losses, curves[1].losses, rtol=1e-5)
        for epoch, metrics in curves[1].metrics.items():
            for name in ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy", "learning_rate"):
                assert curves[workers].metrics[epoch][name] == pytest.approx(metrics[name], rel=1e-5), name
        assert curves[workers].weights_sha256 == curves[1].weights_sha256


def test_resumed_inside_an_epoch_on_other_workers_a_training_stays_on_the_curve(table, recipe, curves, tmp_path):
    step = 4
    before = train(table, tmp_path, 4, recipe, stop=(2, step))
    start = store.newest(tmp_path)
    assert start.state.position == f"epoch 1, step {step}"
    after = train(table, tmp_path, 2, recipe, start=str(start.path))
    assert before.digests + after.digests == curves[1].digests
    assert after.weights_sha256 == curves[1].weights_sha256
    assert after.metrics[2]["validation/loss"] == pytest.approx(curves[1].metrics[2]["validation/loss"], rel=1e-5)


def test_batch_normalization_has_the_statistics_of_each_shard_also_accumulated_averaged_and_through_horovod(table, tmp_path):
    recipe = (
        *(*SETTINGS, "model.name=convnet_batchnorm", "training.accumulation_steps=2", "training.average_decay=0.9"),
        *("training.clip_norm=1", "training.steps_per_execution=3", "launch.shared_memory=false"),
    )
    one, four = (train(table, tmp_path / str(workers), workers, recipe) for workers in (1, 4))
    assert one.digests == four.digests
    for epoch, metrics in one.metrics.items():
        for name in ("train/loss", "validation/loss"):
            assert four.metrics[epoch][name] == pytest.approx(metrics[name], rel=1e-5)


def test_as_many_shards_as_workers_are_the_training_without_the_setting_and_fewer_workers_continue_it(table, tmp_path):
    recipe = (*SETTINGS, "model.name=mlp", "training.augment_shift=0.1")
    without = train(table, tmp_path, 2, (*recipe, "training.canonical_shards=0"), stop=(2, 3))
    start = str(store.newest(tmp_path).path)
    whole = train(table, tmp_path / "whole", 2, (*recipe, "training.canonical_shards=2"))
    rest = train(table, tmp_path, 1, (*recipe, "training.canonical_shards=2"), start=start)
    assert without.digests + rest.digests == whole.digests
    np.testing.assert_allclose(without.losses, whole.losses[: len(without.losses)], rtol=1e-5)
    assert rest.metrics[2]["validation/loss"] == pytest.approx(whole.metrics[2]["validation/loss"], rel=1e-5)


def test_a_training_that_loses_a_worker_for_good_ends_with_the_weights_of_one_that_did_not(
    spark, fork_server, table, tmp_path, monkeypatch
):
    lost = functools.partial(train_with_faults, spark, table)
    patient = ("launch.start_timeout_seconds=600", "launch.stall_warning_seconds=120", "launch.stall_shutdown_seconds=300")
    settings = ("training.epochs=2", "training.canonical_shards=2", "launch.min_workers=1", *patient)
    whole, _ = lost(tmp_path / "whole", fork_server, {}, *settings)
    assert isinstance(whole, list), whole
    # The slot of the lost worker does not return.
    monkeypatch.setattr(slots, "available", lambda _: 1 if store.available(tmp_path / "lost") else 2)
    monkeypatch.setattr(slots, "_REVIVE_SECONDS", 0.1)
    results, messages = lost(tmp_path / "lost", fork_server, {1: ("kill", 1, 2, 5)}, *settings)
    assert isinstance(results, list), results
    assert [result.weights_sha256 for result in results] == [whole[0].weights_sha256]
    expected = "continuing with 1 of 2 workers: there are no task slots for more that divide training.canonical_shards=2"
    assert expected in messages.lines
    assert any("2 canonical shards, workers 2 -> 1; each global batch has" in line for line in messages.lines)
    assert not any("global batch 32 ->" in line for line in messages.lines)
