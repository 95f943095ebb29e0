"""A network of the user's on two workers: what the run holds of it, weights to start from, and a resumption."""

import json

import mlflow
import numpy as np
import pytest
from support.submitting import write_digits
from support.synthetic import images_and_labels

from pipelines.config import loader
from pipelines.errors import ConfigError
from pipelines.launch import resume, user_inputs
from pipelines.launch.training import run_training
from pipelines.system.reporter import NullReporter
from pipelines.track.console.console import TrainingConsole

pytestmark = pytest.mark.timeout(280)

NETWORK = """
import keras
from keras import layers

class Gate(layers.Layer):
    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1],), initializer="ones", name="weight")

    def call(self, inputs):
        return inputs * self.weight

def build(spec, outputs, width=8, head="head"):
    inputs = keras.Input(spec.shape)
    features = layers.Conv2D(width, 3, activation="relu", name="convolution")(layers.Rescaling(1 / 255)(inputs))
    features = layers.Flatten()(Gate(name="gate")(features))
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", dtype="float32", name=head)(features))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_digits(folder)
    (folder / "mine.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_HOME", str(folder))
        patch.setenv("CONVOY_OFFLINE", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


def settings_of(home, *settings):
    return [
        f"data.dataset={home / 'digits'}",
        f"ingest.tables_uri={home / 'tables'}",
        f"launch.runs_uri={home / 'runs'}",
        "data.image_shape=[12, 12, 1]",
        "data.classes=4",
        "model.name=mine.py:build",
        "model.arguments={width: 4}",
        "training.batch_size_per_worker=16",
        "training.precision=float32",
        *settings,
    ]


@pytest.fixture(scope="module")
def first(home, spark):
    """A run of two workers, with traces."""
    settings = settings_of(home, "launch.workers=2", "training.epochs=2", "tracking.tensorboard=true", "tracking.profile=[3, 4]")
    return run_training(loader.load(None, settings), TrainingConsole(2, "quiet"))


def test_the_run_holds_file_digest_and_traces_and_is_named_after_the_function(home, first):
    client = mlflow.MlflowClient(first.tracking_uri)
    run = client.get_run(first.run_id)
    assert run.info.run_name.startswith("digits-mine-build-2w-")
    assert run.data.params["model.arguments"] == "{'width': 4}"
    assert len(run.data.tags["code.mine.py"]) == 64
    assert [file.path for file in client.list_artifacts(first.run_id, "code")] == ["code/mine.py"]
    assert any("events" in file.path for file in client.list_artifacts(first.run_id, "tensorboard"))
    assert (home / first.run_dir / "code/mine.py").read_text() == NETWORK


def test_the_model_of_the_run_answers_through_mlflow(first):
    mlflow.set_tracking_uri(first.tracking_uri)
    images, labels = images_and_labels(100, seed=2)
    answers = mlflow.pyfunc.load_model(first.model_uri).predict(images.astype(np.float32))
    assert np.mean(answers.argmax(1) == labels) == pytest.approx(first.test.accuracy)


def test_a_training_starts_from_the_weights_of_a_registered_model_and_keeps_frozen_layers(home, first, capsys):
    client = mlflow.MlflowClient(first.tracking_uri, first.tracking_uri)
    client.create_registered_model("gated")
    version = client.create_model_version("gated", first.model_uri, first.run_id).version
    client.set_registered_model_alias("gated", "champion", version)
    settings = settings_of(
        home,
        "training.epochs=1",
        "model.weights=models:/gated@champion",
        "model.frozen=[convolution, gate]",
        "model.arguments={width: 4, head: other}",
    )
    config = loader.load(None, settings)
    # Trainings at the same time must not share a file.
    assert user_inputs.prepare(config, None).weights.parent.name.startswith("convoy-weights-")
    second = run_training(config, TrainingConsole(1))
    said = "2 layers taken; random weights in other (not in the file)"
    assert f"model.weights: {said}" in capsys.readouterr().out
    assert client.get_run(second.run_id).data.tags["model.weights"] == said
    mlflow.set_tracking_uri(first.tracking_uri)
    one, other = (mlflow.tensorflow.load_model(run.model_uri) for run in (first, second))
    for layer in ("convolution", "gate"):
        for before, after in zip(one.get_layer(layer).get_weights(), other.get_layer(layer).get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)


def test_weights_that_the_server_does_not_have_are_one_line_before_a_run_is_made(home, first):
    runs = len(list((home / "runs").iterdir()))
    config = loader.load(None, settings_of(home, "model.weights=runs:/0123/model"))
    with pytest.raises(ConfigError, match=r"model\.weights=runs:/0123/model: could not be fetched from sqlite") as error:
        run_training(config, TrainingConsole(1, "quiet"))
    assert "\n" not in str(error.value)
    assert len(list((home / "runs").iterdir())) == runs


def test_a_resumption_takes_the_file_of_the_run_and_refuses_another(home, first):
    run_dir = home / first.run_dir
    resumption = resume.prepare(str(run_dir), str(home / "runs"), ["training.epochs=3"], NullReporter())
    (home / "mine.py").write_text(NETWORK.replace('"ones"', '"zeros"'))
    with pytest.raises(ConfigError, match=r"mine\.py has changed since the run began .* line 7: "):
        run_training(resumption.config, TrainingConsole(3, "quiet"), resumption=resumption)
    (home / "mine.py").write_text(NETWORK)
    continued = run_training(resumption.config, TrainingConsole(3, "quiet"), resumption=resumption)
    assert continued.epochs == 3
    assert json.loads((run_dir / "summary.json").read_text())["run_id"] == first.run_id
