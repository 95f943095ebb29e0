"""The effect of each training setting on one worker, in this process."""

import keras
import mlflow
import numpy as np
import pytest
import tensorflow as tf
from support.synthetic import images_and_labels, write_table

from pipelines import progress
from pipelines.config import loader
from pipelines.config.training import TrainingConfig
from pipelines.data.table.schema import DataSpec
from pipelines.errors import CheckpointError, ConfigError
from pipelines.track.mlflow import logged_model as tracked_model
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.events import SpoolReader, SpoolWriter
from pipelines.train import compile
from pipelines.train.checkpoint import store
from pipelines.train.compile import make_optimizer
from pipelines.train.optim import distributed
from pipelines.train.optim.distributed import with_gradient_checks
from pipelines.train.optim.schedule import PlannedLearningRate, plan_learning_rate
from pipelines.train.test_time_augmentation import average_over_views
from pipelines.train.worker import train

pytestmark = pytest.mark.usefixtures("horovod")

# Losses from before these settings existed. Settings that are left out must not change a number.
KNOWN = {
    ("model.name=convnet_dropout", "training.custom_kernels=false"): ([1.0374908, 0.1618788], [0.34624096, 0.00131848]),
    # Byte dropout draws other random numbers, as with another seed.
    ("model.name=convnet_dropout",): ([0.9968690, 0.1467900], [0.2984710, 0.0010330]),
    (
        "model.name=convnet_batchnorm",
        "training.optimizer=adamw",
        "training.weight_decay=0.01",
        "training.label_smoothing=0.1",
        "training.schedule=one_cycle",
    ): ([0.7073864, 0.3754463], [1.0517277, 0.4481522]),
    ("model.name=convnet", "training.optimizer=sgd", "training.momentum=0.9", "training.base_learning_rate=0.01"): (
        [0.7645232, 0.0285461],
        [0.1172161, 0.0036595],
    ),
}


def trained(table, folder, *settings, start=None):
    config = loader.load(
        None,
        [
            "model.name=convnet_batchnorm",
            "training.epochs=2",
            "training.batch_size_per_worker=32",
            "training.precision=float32",
            *settings,
        ],
    )
    spool = SpoolWriter(folder / "spool", 0)
    try:
        model, result = train(config, table, spool, folder, start)
    finally:
        spool.close()
    events = SpoolReader(folder / "spool").new_events()
    return model, result, [event.values.metrics for event in events if event.kind == "epoch"]


@pytest.mark.parametrize("settings", KNOWN, ids=["dropout-keras", "dropout", "batchnorm-adamw", "momentum"])
def test_settings_that_are_left_out_do_not_change_the_losses(table, tmp_path, settings):
    _, _, epochs = trained(table, tmp_path, *settings)
    for kind, known in zip(("train/loss", "validation/loss"), KNOWN[settings], strict=True):
        np.testing.assert_allclose([metrics[kind] for metrics in epochs], known, rtol=2e-3)


def one_weight(value, **settings):
    """A network with one weight and the configured optimizer."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.set_weights([np.array([[value]], np.float32)])
    training = TrainingConfig(base_learning_rate=0.1, warmup_epochs=0, **settings)
    optimizer = make_optimizer(training, PlannedLearningRate(plan_learning_rate(training, 1, 10)), model)
    optimizer.build(model.trainable_variables)
    model.optimizer = optimizer
    return model, optimizer


def stepped(model, optimizer, *gradients):
    """The weight after each step."""
    weights = []
    for gradient in gradients:
        optimizer.apply([tf.constant([[gradient]])], model.trainable_variables)
        weights.append(float(model.get_weights()[0][0, 0]))
    return weights


def test_sgd_with_momentum_uses_nesterovs_form():
    # Velocity v = 0.9 v - 0.1 g; weight += 0.9 v - 0.1 g.
    assert stepped(*one_weight(1.0, optimizer="sgd", momentum=0.9), 1.0, 1.0) == pytest.approx([0.81, 0.539])


# Only Keras 3.2, of Databricks Runtime 15.4 LTS ML, may lack LAMB (`test_an_optimizer_that_this_keras_lacks_is_one_clear_line`).
HAS_LAMB = not keras.__version__.startswith("3.2.")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", *(["lamb"] if HAS_LAMB else [])])
def test_weight_decay_shrinks_a_weight_whose_gradient_is_zero_by_rate_times_decay(optimizer):
    assert stepped(*one_weight(2.0, optimizer=optimizer, weight_decay=0.5), 0.0) == pytest.approx([2 * (1 - 0.1 * 0.5)])
    assert stepped(*one_weight(2.0, optimizer=optimizer), 0.0) == pytest.approx([2.0])


@pytest.mark.skipif(not HAS_LAMB, reason=f"Keras {keras.__version__} has no LAMB")
def test_lamb_steps_in_proportion_to_the_weight():
    # The first step of Adam has length 1, whatever the gradient; LAMB makes it as long as the weight (You et al. 2019).
    assert stepped(*one_weight(4.0, optimizer="lamb"), 7.0) == pytest.approx([4 - 0.1 * 4], rel=1e-4)
    assert stepped(*one_weight(4.0, optimizer="adam"), 7.0) == pytest.approx([4 - 0.1], rel=1e-4)


def test_an_optimizer_that_this_keras_lacks_is_one_clear_line(monkeypatch):
    monkeypatch.delattr(compile.keras.optimizers, "Lamb", raising=False)
    with pytest.raises(ConfigError, match=r"^training\.optimizer=lamb: Keras \S+ does not have it yet; choose adamw, or"):
        one_weight(1.0, optimizer="lamb")


def test_gradients_are_clipped_by_their_global_norm_only_if_it_is_larger():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = with_gradient_checks(keras.optimizers.SGD, clip_norm=1.0)(1.0)
    model.set_weights([np.zeros((2, 1), np.float32), np.zeros(1, np.float32)])
    optimizer.build(model.trainable_variables)
    optimizer.apply([tf.constant([[2.0], [3.0]]), tf.constant([6.0])], model.trainable_variables)
    np.testing.assert_allclose(np.concatenate([w.ravel() for w in model.get_weights()]), np.array([-2, -3, -6]) / 7, rtol=1e-6)
    optimizer.apply([tf.constant([[0.0], [0.0]]), tf.constant([0.5])], model.trainable_variables)
    assert model.get_weights()[1][0] == pytest.approx(-6 / 7 - 0.5)


def test_the_mean_over_ranks_is_clipped(monkeypatch):
    monkeypatch.setattr(distributed, "allreduce_gradients", lambda gradients, *_: [gradient / 10 for gradient in gradients])
    assert stepped(*one_weight(0.0, optimizer="sgd", clip_norm=1.0), 5.0, 20.0) == pytest.approx([-0.05, -0.15])


def test_the_average_warms_up_and_then_decays_as_configured():
    model, optimizer = one_weight(1.0, optimizer="sgd", average_decay=0.5)
    weights = stepped(model, optimizer, *[1.0] * 30)
    expected = 0.0
    for step, weight in enumerate(weights):
        decay = min(0.5, step / (step + 10))
        expected = decay * expected + (1 - decay) * weight
    assert float(optimizer.averages[0][0, 0]) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(weights[-1] + 0.1, abs=1e-3)


def test_with_ema_validation_and_test_use_averaged_weights_and_checkpoints_keep_both(table, tmp_path):
    plain, _, plain_epochs = trained(table, tmp_path / "plain")
    model, result, epochs = trained(table, tmp_path / "averaged", "training.average_decay=0.95")
    # Training itself is unchanged.
    assert [metrics["train/loss"] for metrics in epochs] == [metrics["train/loss"] for metrics in plain_epochs]
    arrays = store.read_arrays(store.newest(tmp_path / "averaged"))
    stored = [arrays[name] for name in sorted(arrays) if name.startswith("weights/")]
    for raw, expected in zip(stored, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(raw, expected)
    averages = [arrays[name] for name in sorted(arrays) if name.startswith("optimizer/")][-len(stored) :]
    # Including the statistics of batch normalization.
    assert len(averages) == len(model.get_weights())
    for average, weight, raw in zip(averages, model.get_weights(), stored, strict=True):
        np.testing.assert_array_equal(weight, average)
        assert (weight != raw).any()
    images, labels = images_and_labels(101, seed=1)
    probabilities = model.predict(images.astype(np.float32), verbose=0)
    loss = -np.log(probabilities[np.arange(101), labels]).mean()
    assert epochs[-1]["validation/loss"] == pytest.approx(loss, rel=1e-3)
    assert plain_epochs[-1]["validation/loss"] != pytest.approx(loss, rel=1e-3)
    images, labels = images_and_labels(103, seed=2)
    assert np.mean(model.predict(images.astype(np.float32), verbose=0).argmax(1) == labels) == pytest.approx(result.test.accuracy)


def test_early_stopping_keeps_the_averaged_weights_of_the_best_epoch(tmp_path):
    table = write_table(tmp_path / "table", {"train": 640, "validation": 101, "test": 103}, learnable=False)
    settings = ("model.name=convnet", "training.epochs=40", "training.early_stopping_patience=2", "training.average_decay=0.9")
    model, result, epochs = trained(table, tmp_path, *settings, "training.precision=float32")
    assert result.epochs < 40
    images = images_and_labels(101, seed=1)[0]
    labels = np.random.default_rng(1).permutation(images_and_labels(101, seed=1)[1])
    probabilities = model.predict(images.astype(np.float32), verbose=0)
    loss = -np.log(probabilities[np.arange(101), labels]).mean()
    assert loss == pytest.approx(min(metrics["validation/loss"] for metrics in epochs), rel=1e-3)


def test_with_all_settings_a_training_resumed_inside_an_epoch_ends_with_the_same_weights(table, tmp_path):
    settings = (
        "training.epochs=3",
        "training.optimizer=adamw",
        "training.weight_decay=0.01",
        "training.clip_norm=0.5",
        "training.average_decay=0.9",
        "training.augment_rotation=10",
        "training.augment_elastic=0.03",
    )
    whole, result, _ = trained(table, tmp_path / "whole", *settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "stop_requested", lambda: progress.now().activity == "epoch 2, step 10")
        with pytest.raises(progress.Stopped):
            trained(table, tmp_path / "broken", *settings)
    start = store.newest(tmp_path / "broken").path
    resumed, again, _ = trained(table, tmp_path / "broken", *settings, start=start)
    assert [w.tobytes() for w in resumed.get_weights()] == [w.tobytes() for w in whole.get_weights()]
    assert again.test == result.test
    without = tuple(setting for setting in settings if "average" not in setting)
    with pytest.raises(CheckpointError, match="weight averaging it was written with") as caught:
        trained(table, tmp_path / "broken", *without, start=start)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "all_changed"),
    [
        ("augment_shift=0.1", True),
        ("augment_rotation=20", True),
        ("augment_scale=0.2", True),
        ("augment_shear=0.3", True),
        ("augment_elastic=0.05", True),
        ("augment_flip=true", False),
    ],
)
def test_examples_are_saved_as_the_network_saw_them(table, tmp_path, setting, all_changed):
    trained(table, tmp_path, f"training.{setting}", "model.name=mlp", "training.epochs=1")
    examples = figure_data.load(tmp_path, figure_data.EXAMPLES)
    rows = images_and_labels(640, seed=0)[0]
    assert examples["images"].dtype == np.uint8
    unlike_all_rows = [not (rows == image).all(axis=(1, 2, 3)).any() for image in examples["images"]]
    assert all(unlike_all_rows) if all_changed else 0 < sum(unlike_all_rows) < len(unlike_all_rows)


def test_views_are_shifts_by_a_pixel_and_the_output_is_their_mean():
    spec = DataSpec(shape=(6, 7, 2), dtype="uint8", value_range=(0.0, 255.0))
    inputs = keras.Input((6, 7, 2))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(inputs)))
    images = np.random.default_rng(0).random((4, 6, 7, 2)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    assert average_over_views(model, spec, 1) is model
    cross = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    for views, corners in ((5, cross), (9, [*cross, (0, 0), (0, 2), (2, 0), (2, 2)])):
        outputs = [model(padded[:, top : top + 6, left : left + 7]).numpy() for top, left in corners]
        np.testing.assert_allclose(average_over_views(model, spec, views)(images), np.mean(outputs, axis=0), atol=1e-6)


def test_with_views_the_saved_model_scores_as_reported_and_the_single_view_is_reported_separately(table, tmp_path):
    model, result, _ = trained(table, tmp_path, "training.test_views=5", "training.epochs=1", "training.base_learning_rate=0.003")
    images, labels = images_and_labels(103, seed=2)
    tracked_model.save(model, tmp_path / "model", table.manifest, images[:3])
    predictions = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(images.astype(np.float32))
    assert np.mean(predictions.argmax(1) == labels) == pytest.approx(result.test.accuracy)
    assert -np.log(predictions[np.arange(103), labels]).mean() == pytest.approx(result.test.loss, rel=1e-3)
    np.testing.assert_allclose(figure_data.load_predictions(tmp_path).probabilities, predictions, atol=1e-5)
    inner = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    alone = inner.predict(images.astype(np.float32), verbose=0)
    assert np.mean(alone.argmax(1) == labels) == pytest.approx(result.single_view)
    assert figure_data.has(tmp_path, figure_data.FIRST_LAYER)
