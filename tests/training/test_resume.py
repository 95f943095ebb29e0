"""Checkpoints and resumption of one worker, in this process."""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.synthetic import write_table

from pipelines import progress
from pipelines.config import loader
from pipelines.errors import CheckpointError, TrainingError
from pipelines.track.rundir.events import SpoolReader, SpoolWriter
from pipelines.train import compile
from pipelines.train.checkpoint import store
from pipelines.train.compile import LOOPS_IN_EXECUTION
from pipelines.train.worker import train

pytestmark = pytest.mark.usefixtures("horovod")

STEPS = 20
# Only Keras 3.2, of Databricks Runtime 15.4 LTS ML, may lack LAMB.
HAS_LAMB = not keras.__version__.startswith("3.2.")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 645, "validation": 50, "test": 60})


@pytest.fixture(scope="module")
def small_table(tmp_path_factory):
    """As many steps of a quarter of the rows: processors compute float16 slowly."""
    return write_table(tmp_path_factory.mktemp("small"), {"train": 165, "validation": 50, "test": 60})


def config(*settings):
    return loader.load(
        None,
        [
            "model.name=convnet_dropout",
            "training.epochs=4",
            "training.batch_size_per_worker=32",
            "training.precision=float32",
            "training.schedule=cosine",
            *settings,
        ],
    )


def run(folder, table, settings, start=None):
    spool = SpoolWriter(folder / "spool", 0)
    try:
        return train(config(*settings), table, spool, folder, start)
    finally:
        spool.close()


def weights(model):
    return [weight.tobytes() for weight in model.get_weights()]


def metrics(folder):
    """Metrics of each epoch from its last report, without times."""
    timed = ("epoch_seconds", "rows_per_second")
    return {
        event.values.epoch: {k: v for k, v in event.values.metrics.items() if k not in timed}
        for event in SpoolReader(folder / "spool").new_events()
        if event.kind == "epoch"
    }


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("model.name=convnet_batchnorm", "training.optimizer=sgd", "training.momentum=0.9"),
        ("stream.memory_limit_mb=0", "stream.shuffle_buffer_rows=100"),
        ("training.steps_per_execution=3",),
        ("model.name=mlp", "training.precision=bfloat16", "training.optimizer=adamw", "training.weight_decay=0.01"),
        (
            "model.name=convnet_batchnorm",
            "training.precision=float16",
            "training.batch_size_per_worker=8",
            "training.accumulation_steps=4",
            "training.average_decay=0.9",
            "training.clip_norm=1",
        ),
        *([("model.name=mlp", "training.optimizer=lamb", "training.accumulation_steps=2")] if HAS_LAMB else []),
    ],
    ids=[
        "dropout",
        "batchnorm-momentum",
        "streamed",
        "steps-per-execution",
        "bfloat16-adamw",
        "float16-accumulated-averaged",
        *(["lamb"] if HAS_LAMB else []),
    ],
)
def test_resumed_inside_an_epoch_weights_and_metrics_equal_those_of_an_uninterrupted_training(
    table, small_table, tmp_path, settings
):
    table = small_table if "training.batch_size_per_worker=8" in settings else table
    whole, result = run(tmp_path / "whole", table, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "stop_requested", lambda: progress.now().activity == "epoch 3, step 10")
        with pytest.raises(progress.Stopped):
            run(tmp_path / "broken", table, settings)
    checkpoint = store.newest(tmp_path / "broken")
    assert checkpoint.state.position == "epoch 2, step 9"
    resumed, again = run(tmp_path / "broken", table, settings, checkpoint.path)
    assert weights(resumed) == weights(whole)
    assert again.weights_sha256 == result.weights_sha256
    assert (again.epochs, again.best_epoch, again.test) == (result.epochs, result.best_epoch, result.test)
    expected, found = metrics(tmp_path / "whole"), metrics(tmp_path / "broken")
    assert found == expected


def test_a_stop_leaves_the_last_checkpoint_that_all_ranks_agreed_on(table, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "stop_requested", lambda: progress.now().activity == "epoch 2, step 10")
    with pytest.raises(progress.Stopped):
        run(tmp_path, table, ("checkpoint.every_steps=6",))
    assert store.newest(tmp_path).state.position == "epoch 1, step 6"


@pytest.mark.parametrize("per_execution", [1, 4])
def test_a_training_continues_from_a_checkpoint_inside_an_epoch_as_if_it_had_not_ended(table, tmp_path, per_execution):
    settings = (
        "training.epochs=2",
        "checkpoint.every_steps=6",
        "checkpoint.keep=99",
        f"training.steps_per_execution={per_execution if LOOPS_IN_EXECUTION else 1}",
    )
    whole, _ = run(tmp_path / "whole", table, settings)
    written = [path.stem for path in store.available(tmp_path / "whole")]
    steps = (8, 12) if per_execution == 4 and LOOPS_IN_EXECUTION else (6, 12, 18)
    inside = [f"epoch-{epoch:06d}-step-{step:08d}" for epoch in (0, 1) for step in steps]
    assert set(written) == {*inside, "epoch-000001-step-00000000", "epoch-000002-step-00000000"}
    for name in (inside[1], inside[-1]):
        start = tmp_path / "whole" / "checkpoints" / f"{name}.json"
        resumed, _ = run(tmp_path / name, table, settings, start)
        assert weights(resumed) == weights(whole)
        expected, found = metrics(tmp_path / "whole"), metrics(tmp_path / name)
        assert found == expected


@pytest.mark.skipif(not LOOPS_IN_EXECUTION, reason=f"Keras {keras.__version__} does not loop within an execution")
def test_within_an_execution_of_many_steps_each_is_progress_and_a_stop_is_heard(table, tmp_path, monkeypatch):
    settings = ("training.steps_per_execution=1000", "training.batch_size_per_worker=5", "training.epochs=2")
    whole, result = run(tmp_path / "whole", table, settings)
    stop, marks = threading.Event(), []

    def watch():
        """Stops the second epoch, which is one execution, in its middle."""
        while progress.now().activity != "epoch 2, step 1":
            time.sleep(0.001)
        first = progress.now().marks
        while progress.now().marks < first + 30:
            marks.append(progress.now().marks)
            time.sleep(0.001)
        stop.set()

    monkeypatch.setattr(progress, "stop_requested", stop.is_set)
    monkeypatch.setattr(progress, "wait_for_stop", stop.wait)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with pytest.raises(progress.Stopped):
        run(tmp_path / "broken", table, settings)
    watcher.join(10)
    stop.clear()
    assert len(set(marks)) > 5
    checkpoint = store.newest(tmp_path / "broken")
    assert checkpoint.state.epoch == 1
    assert 30 <= checkpoint.state.step < 129
    resumed, again = run(tmp_path / "broken", table, settings, checkpoint.path)
    assert weights(resumed) == weights(whole)
    assert again.weights_sha256 == result.weights_sha256


def test_steps_that_overflowed_count_as_steps_of_the_epoch_and_of_the_schedule(table, tmp_path, monkeypatch):
    class OverflowingAtFirst(compile.BoundedLossScaleOptimizer):
        def __init__(self, inner):
            super().__init__(inner, initial_scale=2.0**24)

    monkeypatch.setattr(compile, "BoundedLossScaleOptimizer", OverflowingAtFirst)
    settings = ("model.name=mlp", "training.precision=float16", "training.epochs=2")
    whole, _ = run(tmp_path / "whole", table, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "stop_requested", lambda: progress.now().activity == "epoch 2, step 10")
        with pytest.raises(progress.Stopped):
            run(tmp_path / "broken", table, settings)
    checkpoint = store.newest(tmp_path / "broken")
    updates = int(store.read_arrays(checkpoint)["optimizer/0000"])
    assert checkpoint.state.position == "epoch 1, step 9"
    assert 1 < STEPS + 9 - updates < STEPS
    resumed, _ = run(tmp_path / "broken", table, settings, checkpoint.path)
    assert weights(resumed) == weights(whole)
    assert int(store.read_arrays(store.newest(tmp_path / "broken"))["optimizer/0000"]) == updates + 2 * STEPS - STEPS - 9
    # A cosine ends at zero after all steps, not after as many updates.
    assert metrics(tmp_path / "broken")[2]["learning_rate"] == metrics(tmp_path / "whole")[2]["learning_rate"] == 0


def test_a_stop_during_the_last_step_of_an_epoch_takes_effect_after_the_epoch(table, tmp_path, monkeypatch):
    whole, _ = run(tmp_path / "whole", table, ())
    seen = []

    def stop_requested():
        if progress.now().activity == f"epoch 2, step {STEPS + 1}":
            seen.append(True)
        return bool(seen)

    # The request arrives when the last step is marked, and stays set.
    monkeypatch.setattr(progress, "mark", lambda activity, mark=progress.mark: (mark(activity), stop_requested()))
    monkeypatch.setattr(progress, "stop_requested", stop_requested)
    with pytest.raises(progress.Stopped):
        run(tmp_path / "broken", table, ())
    monkeypatch.undo()
    kept = store.newest(tmp_path / "broken")
    assert (kept.state.epoch, kept.state.step) == (2, 0)
    model, _ = run(tmp_path / "broken", table, (), kept.path)
    assert weights(model) == weights(whole)
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


def test_epochs_of_the_checkpoint_that_the_spool_lacks_are_reported_again(table, tmp_path):
    run(tmp_path, table, ("training.epochs=2",))
    whole = metrics(tmp_path)
    spool = tmp_path / "spool" / "rank-0.jsonl"
    # As if the node was lost before the last second of its spool was copied.
    spool.write_text("".join(line for line in spool.read_text().splitlines(keepends=True) if '"epoch": 2' not in line))
    assert metrics(tmp_path).keys() == {1}
    run(tmp_path, table, ("training.epochs=2",), store.newest(tmp_path).path)
    assert metrics(tmp_path) == whole
    assert [event.values.epoch for event in SpoolReader(tmp_path / "spool").new_events() if event.kind == "epoch"] == [1, 2]


def test_resumed_between_epochs_a_training_equals_an_uninterrupted_one_and_only_the_last_checkpoints_are_kept(table, tmp_path):
    settings = ("checkpoint.keep=2",)
    whole, _ = run(tmp_path / "whole", table, settings)
    assert [path.name[:12] for path in store.available(tmp_path / "whole")] == ["epoch-000004", "epoch-000003"]
    third = store.available(tmp_path / "whole")[1]
    assert len(store.verify(third).state.history) == 3
    resumed, _ = run(tmp_path / "again", table, settings, third)
    assert weights(resumed) == weights(whole)
    # The new folder's spool lacks the first three epochs, which are reported from the checkpoint.
    assert metrics(tmp_path / "again") == metrics(tmp_path / "whole")


def test_an_epoch_has_the_planned_number_of_steps_whatever_the_steps_per_execution(table, tmp_path):
    for settings in ((), ("training.steps_per_execution=3",)):
        run(tmp_path / str(len(settings)), table, (*settings, "training.epochs=2"))
        arrays = store.read_arrays(store.newest(tmp_path / str(len(settings))))
        assert int(arrays["optimizer/0000"]) == 2 * STEPS


def test_the_best_weights_and_the_decision_to_stop_early_survive(tmp_path):
    table = write_table(tmp_path / "table", {"train": 640, "validation": 101, "test": 103}, learnable=False)
    settings = ("training.epochs=40", "training.early_stopping_patience=2", "model.name=convnet", "checkpoint.keep=9")
    whole, result = run(tmp_path / "whole", table, settings)
    assert 3 <= result.epochs < 40
    newest, before, *_ = store.available(tmp_path / "whole")
    for start in (newest, before):
        resumed, again = run(tmp_path / f"from-{start.stem}", table, settings, start)
        assert (again.epochs, again.best_epoch) == (result.epochs, result.best_epoch)
        assert weights(resumed) == weights(whole)


def test_checkpoints_are_written_at_the_configured_interval_and_never_if_it_is_zero(table, tmp_path):
    run(tmp_path / "none", table, ("checkpoint.every_epochs=0", "training.epochs=2"))
    assert not (tmp_path / "none" / "checkpoints").exists()
    run(tmp_path / "inside", table, ("checkpoint.every_epochs=0", "checkpoint.every_steps=15", "training.epochs=1"))
    assert [path.stem for path in store.available(tmp_path / "inside")] == ["epoch-000000-step-00000015"]
    run(tmp_path / "second", table, ("checkpoint.every_epochs=2", "training.epochs=3", "checkpoint.keep=9"))
    # The last epoch always has a checkpoint.
    assert [path.name[:12] for path in store.available(tmp_path / "second")] == ["epoch-000003", "epoch-000002"]


def test_another_network_or_optimizer_is_rejected_in_one_line(table, tmp_path):
    run(tmp_path, table, ("training.epochs=1",))
    start = store.newest(tmp_path).path
    for setting, part in (("model.name=convnet", "weights"), ("training.optimizer=sgd", "optimizer")):
        with pytest.raises(CheckpointError, match=rf"the checkpoint's {part} do not match convnet") as caught:
            run(tmp_path, table, (setting,), start)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("per_execution", [1, 8])
def test_a_loss_that_is_not_finite_stops_in_its_step_and_keeps_the_last_good_checkpoint(table, tmp_path, per_execution):
    settings = (
        "model.name=mlp",
        "training.optimizer=sgd",
        "training.base_learning_rate=1e-4",
        f"training.steps_per_execution={per_execution}",
    )
    run(tmp_path, table, (*settings, "training.epochs=1"))
    good = store.newest(tmp_path)
    with pytest.raises(
        TrainingError, match=r"^the loss is not finite in epoch 2, step \d+ of 20, at learning rate \S+; lower"
    ) as c:
        run(tmp_path, table, (*settings, "training.base_learning_rate=1e30"), good.path)
    assert "\n" not in str(c.value)
    assert store.newest(tmp_path) == good
    assert all(np.isfinite(array).all() for array in store.read_arrays(good).values())


def test_the_message_names_the_step_that_failed(table, tmp_path, monkeypatch):
    from pipelines.train.optim import distributed

    real = distributed.allreduce_gradients

    def broken(gradients, compression, bucket_bytes):
        step = broken.optimizer.iterations
        bad = tf.where(tf.equal(tf.cast(step, tf.int64), STEPS + 6), float("nan"), 1.0)
        return [gradient * bad for gradient in real(gradients, compression, bucket_bytes)]

    class Watching(distributed.keras.optimizers.Adam):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            broken.optimizer = self

    monkeypatch.setattr(distributed, "allreduce_gradients", broken)
    monkeypatch.setattr(distributed.keras.optimizers, "Adam", Watching)
    with pytest.raises(TrainingError, match=r"in epoch 2, step 7 of 20"):
        run(tmp_path, table, ("training.steps_per_execution=4", "model.name=convnet"))
    assert store.newest(tmp_path).state.position == "epoch 1"
