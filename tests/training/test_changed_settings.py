"""What becomes of a training's state when it is resumed with other settings. One worker, in this process."""

import dataclasses

import numpy as np
import pytest
from support.synthetic import images_and_labels, write_table

from pipelines import progress
from pipelines.config import loader
from pipelines.config.training import TrainingConfig
from pipelines.track.rundir.events import SpoolReader, SpoolWriter
from pipelines.train.checkpoint import store
from pipelines.train.optim.schedule import PlannedLearningRate, plan_learning_rate
from pipelines.train.worker import train

pytestmark = pytest.mark.usefixtures("horovod")

ROWS = 640
BATCH = 32
STEPS = ROWS // BATCH

# Of each setting of the section `training`, another value to resume with, and what it means for the state in a checkpoint.
NO_STATE = "no state depends on it"
CHANGES = {
    "epochs": (6, "the schedule is that of the new length, from the same epoch and step"),
    "batch_size_per_worker": (16, "the share of the epoch is kept; the optimizer's count of updates goes on"),
    "optimizer": ("sgd", "refused"),
    "base_learning_rate": (0.002, NO_STATE),
    "learning_rate_scaling": ("none", NO_STATE),
    "learning_rate_batch": (64, NO_STATE),
    "warmup_epochs": (3.0, NO_STATE),
    "schedule": ("cosine", "the rate is that of the new schedule at the same step"),
    "step_epochs": (2.0, NO_STATE),
    "step_factor": (0.5, NO_STATE),
    "momentum": (0.9, "refused between none and some"),
    "weight_decay": (0.1, NO_STATE),
    "clip_norm": (1.0, NO_STATE),
    "average_decay": (0.9, "refused between none and some"),
    "class_weights": ("balanced", NO_STATE),
    "label_smoothing": (0.1, NO_STATE),
    "augment_shift": (0.1, NO_STATE),
    "augment_rotation": (10.0, NO_STATE),
    "augment_scale": (0.1, NO_STATE),
    "augment_shear": (0.1, NO_STATE),
    "augment_elastic": (0.02, NO_STATE),
    "augment_flip": (True, NO_STATE),
    "test_views": (5, NO_STATE),
    "precision": ("float16", "the loss scale starts anew, or is left"),
    "accumulation_steps": (2, NO_STATE),
    "canonical_shards": (1, "the share of the epoch is kept, if there are other shards than workers before"),
    "compression": ("float16", NO_STATE),
    "bucket_mb": (0.01, NO_STATE),
    # More than are left of the epoch.
    "steps_per_execution": (16, NO_STATE),
    "custom_kernels": (False, NO_STATE),
    "early_stopping_patience": (2, "the best weights are those of the best epoch of all"),
    "seed": (5, "order, augmentation and dropout are those of the new seed from here on"),
    "loss": ("sparse_categorical_crossentropy", NO_STATE),
    "metrics": (["sparse_top_k_categorical_accuracy"], NO_STATE),
    "callbacks": (["keras.callbacks:History"], NO_STATE),
}


def run(folder, table, *settings, start=None, stop=None):
    """Network, result, and the last report of each epoch. With `stop`, an activity, the newest checkpoint of the stopped run."""
    base = ["model.name=mlp", "training.epochs=4", f"training.batch_size_per_worker={BATCH}", "training.precision=float32"]
    config = loader.load(None, [*base, *settings])
    spool = SpoolWriter(folder / "spool", 0)
    try:
        if stop is not None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(progress, "stop_requested", lambda: progress.now().activity == stop)
                with pytest.raises(progress.Stopped):
                    train(config, table, spool, folder, start)
            return store.newest(folder).path
        model, result = train(config, table, spool, folder, start)
    finally:
        spool.close()
    events = [event.values for event in SpoolReader(folder / "spool").new_events() if event.kind == "epoch"]
    return model, result, [{event.epoch: event.metrics for event in events}[epoch] for epoch in range(1, result.epochs + 1)]


def same_weights(one, other):
    return all((a == b).all() for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def updates(folder):
    """Updates of the optimizer up to the newest checkpoint."""
    return int(store.read_arrays(store.newest(folder))["optimizer/0000"])


@pytest.fixture(scope="module")
def stopped(table, tmp_path_factory):
    """A checkpoint of epoch 2, step 9."""
    return run(tmp_path_factory.mktemp("stopped"), table, stop="epoch 3, step 10")


def test_there_is_a_decision_for_every_setting_of_the_training():
    assert list(CHANGES) == [field.name for field in dataclasses.fields(TrainingConfig)]


# A named loss takes no label smoothing.
@pytest.mark.parametrize("unchanged", ["loss", "label_smoothing"])
def test_a_training_goes_on_at_its_step_when_all_settings_on_which_no_state_depends_are_changed(
    stopped, table, tmp_path, unchanged
):
    changed = [
        f"training.{name}={value}"
        for name, (value, meaning) in CHANGES.items()
        # Of another optimizer, and of several workers.
        if meaning == NO_STATE and name not in ("weight_decay", "compression", "bucket_mb", unchanged)
    ]
    _, result, epochs = run(tmp_path, table, *changed, start=stopped)
    assert (result.epochs, len(epochs)) == (4, 4)
    assert updates(tmp_path) == 4 * STEPS
    assert result.single_view is not None


@pytest.fixture(scope="module")
def unlearnable(tmp_path_factory):
    """A table on which the validation loss rises after some epochs."""
    return write_table(tmp_path_factory.mktemp("unlearnable"), {"train": ROWS, "validation": 101, "test": 103}, learnable=False)


def validation_loss(model):
    """The loss on the validation rows of `unlearnable`."""
    images, labels = images_and_labels(101, seed=1)
    probabilities = model.predict(images.astype(np.float32), verbose=0)
    return -np.log(probabilities[np.arange(101), np.random.default_rng(1).permutation(labels)]).mean()


@pytest.fixture(scope="module")
def without_patience(unlearnable, tmp_path_factory):
    """A whole training without early stopping: its folder, network, result and epochs."""
    folder = tmp_path_factory.mktemp("without")
    return folder, *run(folder, unlearnable, "model.name=convnet", "training.epochs=8", "checkpoint.keep=9")


@pytest.mark.parametrize("average", [(), ("training.average_decay=0.5",)], ids=["last", "averaged"])
def test_resumed_with_patience_the_best_network_of_all_epochs_is_logged_as_if_it_had_been_set_from_the_start(
    unlearnable, tmp_path, average
):
    settings = ("model.name=convnet", *average)
    whole, expected, _ = run(
        tmp_path / "whole", unlearnable, *settings, "training.epochs=20", "training.early_stopping_patience=2"
    )
    best = expected.best_epoch
    assert 1 <= best < expected.epochs - 1 < 19
    # The best epoch is the last of the first part, or before its last, or is interrupted.
    run(tmp_path / "parts", unlearnable, *settings, f"training.epochs={best + 1}", "checkpoint.keep=9")
    after, at = (path for path in store.available(tmp_path / "parts")[:2])
    inside = run(tmp_path / "inside", unlearnable, *settings, stop=f"epoch {best + 2}, step 5")
    for number, start in enumerate((at, after, inside)):
        model, result, epochs = run(
            tmp_path / str(number),
            unlearnable,
            *settings,
            "training.epochs=20",
            "training.early_stopping_patience=2",
            start=start,
        )
        assert (result.epochs, result.best_epoch) == (expected.epochs, best)
        assert same_weights(model, whole)
        losses = [metrics["validation/loss"] for metrics in epochs]
        assert validation_loss(model) == pytest.approx(losses[best - 1], rel=1e-3)
        assert losses[best - 1] == min(losses)


def test_resumed_without_patience_the_last_network_is_logged_and_not_the_best(unlearnable, without_patience, tmp_path):
    _, last, expected, _ = without_patience
    assert expected.best_epoch < 8
    start = run(
        tmp_path / "first", unlearnable, "model.name=convnet", "training.early_stopping_patience=5", stop="epoch 3, step 10"
    )
    settings = ("model.name=convnet", "training.epochs=8", "training.early_stopping_patience=0")
    model, result, _ = run(tmp_path / "second", unlearnable, *settings, start=start)
    assert same_weights(model, last)
    assert (result.epochs, result.best_epoch, result.test) == (8, expected.best_epoch, expected.test)


def test_a_patience_that_is_used_up_ends_the_training_with_the_best_network_and_a_larger_one_goes_on(
    unlearnable, without_patience, tmp_path
):
    folder, _, whole, epochs = without_patience
    losses = [metrics["validation/loss"] for metrics in epochs]
    newest = store.newest(folder).path
    settings = ("model.name=convnet", "training.epochs=9")
    model, result, _ = run(tmp_path / "one", unlearnable, *settings, "training.early_stopping_patience=1", start=newest)
    assert (result.epochs, result.best_epoch) == (8, whole.best_epoch)
    assert validation_loss(model) == pytest.approx(min(losses), rel=1e-3)
    _, result, _ = run(tmp_path / "twenty", unlearnable, *settings, "training.early_stopping_patience=20", start=newest)
    assert result.epochs == 9


def test_a_checkpoint_of_an_earlier_version_without_the_best_weights_counts_patience_from_there(
    unlearnable, without_patience, tmp_path
):
    folder, *_ = without_patience
    checkpoint = store.newest(folder)
    arrays = {name: array for name, array in store.read_arrays(checkpoint).items() if not name.startswith("best/")}
    assert len(arrays) < len(store.read_arrays(checkpoint))
    start = store.write(tmp_path / "earlier", checkpoint.state, arrays, keep=9)
    settings = ("model.name=convnet", "training.epochs=20", "training.early_stopping_patience=2")
    model, result, epochs = run(tmp_path / "resumed", unlearnable, *settings, start=start)
    assert 8 < result.best_epoch == result.epochs - 2
    losses = [metrics["validation/loss"] for metrics in epochs]
    assert validation_loss(model) == pytest.approx(min(losses[8:]), rel=1e-3)


def planned(step, steps_per_epoch, **settings):
    rate = plan_learning_rate(TrainingConfig(**settings), 1, steps_per_epoch)
    return float(PlannedLearningRate(rate)(step))


def test_with_other_steps_per_epoch_the_schedule_keeps_its_place_and_the_optimizer_its_count_of_updates(stopped, table, tmp_path):
    # Adam corrects the bias of its moments by the updates that they are made of: 49 of the first part, whatever their batches.
    for batch, rest in ((16, 22 + 40), (128, 3 + 5)):
        settings = (f"training.batch_size_per_worker={batch}", "training.schedule=cosine")
        _, _, epochs = run(tmp_path / str(batch), table, *settings, start=stopped)
        steps = ROWS // batch
        assert updates(tmp_path / str(batch)) == 2 * STEPS + 9 + rest
        expected = [planned(epoch * steps, steps, epochs=4, batch_size_per_worker=batch, schedule="cosine") for epoch in (3, 4)]
        assert [metrics["learning_rate"] for metrics in epochs[2:]] == pytest.approx(expected, abs=1e-9)


def test_a_longer_training_follows_the_schedule_of_its_new_length_from_the_same_step(stopped, table, tmp_path):
    _, result, epochs = run(tmp_path, table, "training.epochs=6", "training.schedule=cosine", start=stopped)
    expected = [planned(epoch * STEPS, STEPS, epochs=6, schedule="cosine") for epoch in (3, 4, 5, 6)]
    assert result.epochs == 6
    assert [metrics["learning_rate"] for metrics in epochs[2:]] == pytest.approx(expected, abs=1e-9)


def test_precision_can_be_changed_and_the_loss_scale_starts_anew_or_is_left(stopped, table, tmp_path):
    run(tmp_path, table, "training.precision=float16", "training.epochs=3", start=stopped)
    checkpoint = store.newest(tmp_path)
    scaled = store.read_arrays(checkpoint)
    assert 2.0**15 in [float(array) for name, array in scaled.items() if name.startswith("scale/")]
    assert updates(tmp_path) == 3 * STEPS
    # Nothing is left to train: the state is that of the checkpoint.
    model, _, _ = run(tmp_path / "back", table, "training.epochs=3", start=checkpoint.path)
    for number, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, scaled[f"weights/{number:04d}"])
    run(tmp_path / "on", table, "training.epochs=4", start=checkpoint.path)
    assert updates(tmp_path / "on") == 4 * STEPS
    assert not [name for name in store.read_arrays(store.newest(tmp_path / "on")) if name.startswith("scale/")]
