import json

import pytest
from support.synthetic import write_table

from pipelines.config import loader
from pipelines.launch.train_function import work
from pipelines.launch.workers import barrier
from pipelines.track.rundir import figure_data

pytestmark = pytest.mark.timeout(180)


def train(spark, table, folder, fork_server, workers, *settings):
    config = loader.load(
        None,
        [
            "model.name=convnet",
            "training.epochs=4",
            "training.precision=float32",
            "training.batch_size_per_worker=16",
            f"launch.workers={workers}",
            # With more threads, the order of summation within an operation varies.
            "launch.threads_per_worker=1",
            *settings,
        ],
    )
    results = barrier.start(
        spark, work, (config, table, str(folder)), launch=config.launch, work_dir=folder, fork_server=fork_server
    ).results()
    events = [
        [json.loads(line) for line in (folder / "spool" / f"rank-{rank}.jsonl").read_text().splitlines()]
        for rank in range(workers)
    ]
    return results, events


@pytest.fixture(scope="module")
def two_workers_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two_workers(spark, fork_server, table, two_workers_folder):
    return train(spark, table, two_workers_folder, fork_server, 2)


@pytest.mark.quick
def test_two_workers_end_with_equal_weights_and_test_every_row(two_workers):
    (first, second), _ = two_workers
    assert first.weights_sha256 == second.weights_sha256
    assert first.test == second.test
    assert first.test.rows == 103
    assert first.test.accuracy > 0.9


@pytest.mark.quick
def test_two_workers_write_the_prediction_of_every_test_row_once(two_workers, two_workers_folder):
    (first, _), _ = two_workers
    predictions = figure_data.load_predictions(two_workers_folder)
    assert predictions.rows.tolist() == list(range(103))
    assert (predictions.probabilities.argmax(1) == predictions.labels).mean() == pytest.approx(first.test.accuracy)
    wrong = predictions.probabilities.argmax(1) != predictions.labels
    assert set(predictions.worst) <= set(wrong.nonzero()[0])
    assert len(predictions.worst) == len(predictions.worst_images) == min(25 * 2, wrong.sum())
    assert figure_data.load(two_workers_folder, figure_data.FIRST_LAYER)["kernels"].shape == (4, 4, 1, 8)


@pytest.mark.quick
def test_both_ranks_see_the_same_metrics_and_took_the_same_steps(two_workers):
    _, events = two_workers
    timed = ("epoch_seconds", "rows_per_second")
    epochs = [
        [{k: v for k, v in event["values"]["metrics"].items() if k not in timed} for event in rank if event["kind"] == "epoch"]
        for rank in events
    ]
    assert epochs[0] == epochs[1]
    assert [event["values"]["steps"] for rank in events for event in rank if event["kind"] == "plan"] == [20, 20]


def test_the_same_seed_and_workers_give_the_same_weights_bit_for_bit_forked_or_not(spark, table, two_workers, tmp_path):
    (again, _), _ = train(spark, table, tmp_path, "", 2)
    assert again.weights_sha256 == two_workers[0][0].weights_sha256


def test_the_learning_rate_of_two_workers_is_twice_that_of_one(two_workers):
    _, events = two_workers
    plan = next(event["values"] for event in events[0] if event["kind"] == "plan")
    assert plan["learning_rate"] == pytest.approx(0.002)


def test_shared_memory_and_horovod_give_the_same_weights_bit_for_bit(spark, fork_server, table, two_workers, tmp_path):
    (first, _), _ = two_workers
    (by_horovod, _), _ = train(spark, table, tmp_path, fork_server, 2, "launch.shared_memory=false")
    assert by_horovod.weights_sha256 == first.weights_sha256
    assert by_horovod.test == first.test


def test_one_worker_trains_likewise(spark, fork_server, table, tmp_path):
    (result,), events = train(spark, table, tmp_path, fork_server, 1)
    assert result.test.rows == 103
    assert result.test.accuracy > 0.9
    assert [event["values"]["steps"] for event in events[0] if event["kind"] == "plan"] == [40]


def test_batch_normalization_statistics_and_averages_are_equal_on_all_ranks_and_only_rank_zero_saves(
    spark, fork_server, table, tmp_path
):
    recipe = ("training.average_decay=0.9", "training.clip_norm=1", "training.augment_rotation=10", "training.test_views=5")
    results, _ = train(spark, table, tmp_path, fork_server, 2, "model.name=convnet_batchnorm", "training.epochs=1", *recipe)
    assert results[0].weights_sha256 == results[1].weights_sha256
    assert (tmp_path / "model" / "MLmodel").exists()


def test_compressed_gradients_give_nearly_the_same_loss(spark, fork_server, table, two_workers, tmp_path):
    (first, second), events = train(spark, table, tmp_path, fork_server, 2, "training.epochs=1", "training.compression=float16")
    assert first.weights_sha256 == second.weights_sha256
    losses = [
        next(event["values"]["metrics"]["train/loss"] for event in found[0] if event["kind"] == "epoch")
        for found in (events, two_workers[1])
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_ranks_stay_equal_with_float16_and_gradient_accumulation(spark, fork_server, table, tmp_path):
    recipe = ("training.precision=float16", "training.accumulation_steps=4", "training.clip_norm=1", "training.average_decay=0.9")
    (first, second), _ = train(spark, table, tmp_path, fork_server, 2, "training.epochs=2", *recipe)
    assert first.weights_sha256 == second.weights_sha256
    assert first.precision == second.precision == "float16"
    assert first.test.accuracy > 0.6


def test_ranks_stop_early_in_the_same_epoch(spark, fork_server, tmp_path):
    table = write_table(tmp_path / "table", {"train": 640, "validation": 101, "test": 103}, learnable=False)
    results, _ = train(spark, table, tmp_path, fork_server, 2, "training.epochs=40", "training.early_stopping_patience=2")
    assert results[0].epochs == results[1].epochs < 40
    assert results[0].weights_sha256 == results[1].weights_sha256
