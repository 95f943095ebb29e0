"""Rows of features: their batches, the networks on them, and the model that is logged. One worker, in this process."""

import dataclasses
import subprocess
import sys

import keras
import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.features import MEANS, features_and_targets, write_table

from pipelines.config import StreamConfig, loader
from pipelines.data.stream.batches import EvaluationData, Shard, TrainingData
from pipelines.data.stream.sharding import RowRange
from pipelines.data.table import verify
from pipelines.data.table.schema import DataSpec, Table
from pipelines.errors import ConfigError
from pipelines.models import registry
from pipelines.models.layers import raw_input, scaled
from pipelines.score import model_info
from pipelines.track.mlflow import logged_model
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.events import SpoolWriter
from pipelines.train.worker import train

STANDARDIZED = DataSpec(
    shape=(5,),
    dtype="float32",
    value_range=(0.0, 1.0),
    scaling="standardize",
    means=tuple(MEANS),
    deviations=(1.0, 10.0, 1e3, 0.01, 1.0),
)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("weighted"), {"train": 230, "test": 60}, task="regression", weighted=True)


@pytest.mark.parametrize("memory_limit_mb", [0, 100], ids=["streamed", "in memory"])
def test_numbers_and_weights_stay_with_their_rows_in_every_batch(weighted, memory_limit_mb):
    stream = StreamConfig(memory_limit_mb=memory_limit_mb, shuffle_buffer_rows=64)
    shard = Shard(table=weighted, split="train", rows=RowRange(7, 227), stream=stream)
    values, targets = features_and_targets(230)
    target_of = {row.tobytes(): target for row, target in zip(values, targets, strict=True)}
    batches = list(TrainingData(shard, steps=11, batch_size=20, seed=3).dataset().as_numpy_iterator())
    assert [tuple(part.shape for part in batch) for batch in batches] == [((20, 5), (20, 1), (20,))] * 11
    inputs, numbers, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert len({row.tobytes() for row in inputs}) == 220
    assert numbers[:, 0].tolist() == [target_of[row.tobytes()] for row in inputs]
    np.testing.assert_array_equal(weights, 1 + inputs[:, 0] ** 2)
    assert {part.dtype for part in (inputs, numbers, weights)} == {np.dtype(np.float32)}

    evaluated = [np.concatenate(parts) for parts in zip(*EvaluationData(shard).batches(32), strict=True)]
    for part, expected in zip(evaluated, (values, targets[:, None], 1 + values[:, 0] ** 2), strict=True):
        np.testing.assert_array_equal(part, expected[7:227])


def test_the_shuffle_buffer_of_wide_rows_is_within_the_memory_limit(weighted):
    spec = dataclasses.replace(weighted.manifest.spec, shape=(1000,), means=(), deviations=(), scaling="none")
    wide = Table(weighted.uri, dataclasses.replace(weighted.manifest, spec=spec))
    unlimited, limited = (
        Shard(table=wide, split="train", rows=RowRange(0, 300), stream=StreamConfig(memory_limit_mb=limit)) for limit in (0, 1)
    )
    assert not limited.fits_memory
    assert unlimited.held_bytes(16) > 20_000 * 4000
    # Besides the buffer: five arrays of rows that left it, each at most half of it; five files, read and decoded; and a rest.
    assert limited.held_bytes(16) <= 1e6 + 5 * 0.5e6 + (2 * 5 + 1) * 50 * 4000


def test_a_table_without_the_weights_that_its_manifest_promises_is_damaged(tmp_path):
    table = write_table(tmp_path / "table", {"train": 60, "test": 50}, task="regression", weighted=True)
    file = tmp_path / "table" / table.manifest.splits["train"].files[0].path
    pq.write_table(pq.read_table(file).select(["features", "target"]), file)
    damage = verify.find_damage(tmp_path / "table", table.manifest)
    assert damage == "split=train/part-00000.parquet has no column 'weight'; its columns are features, target"
    pq.write_table(pa.table({"features": [b"1234"], "target": [b"1234"], "weight": pa.array([1.0], pa.float32())}), file)
    assert "has 1 rows" in verify.find_damage(tmp_path / "table", table.manifest)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_standardized_network_sees_mean_0_and_deviation_1_of_raw_values(policy):
    keras.config.set_dtype_policy(policy)
    try:
        inputs = raw_input(STANDARDIZED)
        network = keras.Model(inputs, scaled(STANDARDIZED, inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    assert inputs.name == "features"
    seen = network.predict(features_and_targets(4000)[0], verbose=0)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(seen.std(axis=0), [1, 1, 1, 1, 0], atol=0.05)


def test_values_are_scaled_as_configured():
    values = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)

    def seen(**spec):
        spec = DataSpec(shape=(2,), dtype="float32", value_range=(1.0, 5.0), **spec)
        inputs = raw_input(spec)
        # A network of nothing but the identity cannot be built.
        return keras.Model(inputs, keras.layers.Identity()(scaled(spec, inputs))).predict(values, verbose=0)

    np.testing.assert_allclose(seen(), (values - 1) / 4, rtol=1e-6)
    np.testing.assert_array_equal(seen(scaling="none"), values)


def test_a_saved_network_of_features_standardizes_without_convoy(tmp_path):
    values = features_and_targets(4)[0]
    model = registry.build("mlp", STANDARDIZED, 2)
    model.save(tmp_path / "mlp.keras")
    np.savez(tmp_path / "rows.npz", values=values, expected=model(values))
    script = (
        "import sys; sys.modules['pipelines'] = None\n"
        "import keras, numpy as np\n"
        "rows = np.load('rows.npz')\n"
        "answers = keras.models.load_model('mlp.keras')(rows['values'])\n"
        "np.testing.assert_allclose(answers, rows['expected'], rtol=1e-4, atol=1e-6)\n"
    )
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_network_of_convolutions_is_not_built_for_features():
    with pytest.raises(ConfigError, match=r"^model\.name=convnet: needs pictures"):
        registry.build("convnet", STANDARDIZED, 2)


@pytest.mark.usefixtures("horovod")
def test_features_are_learned_and_the_logged_model_takes_them_raw(tmp_path):
    table = write_table(tmp_path / "table", {"train": 640, "validation": 101, "test": 103}, task="classification")
    config = loader.load(
        None, ["model.name=mlp_wide", "training.epochs=6", "training.batch_size_per_worker=32", "training.precision=float32"]
    )
    spool = SpoolWriter(tmp_path, 0)
    model, result = train(config, table, spool, tmp_path)
    spool.close()
    assert result.test.accuracy > 0.9
    assert not figure_data.has(tmp_path, figure_data.EXAMPLES)

    values, targets = features_and_targets(103, seed=3)
    logged_model.save(model, tmp_path / "model", table.manifest, values[:1])
    info = model_info.read(tmp_path / "model", "models:/m-1")
    assert (info.image_shape, info.scaling, info.checks_range, info.picture_form) == ((5,), "standardize", False, "unknown")
    # Beyond the range of the training rows, which is no rule.
    values[0, 1] = 1e6
    answers = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(values)
    right = (answers.argmax(axis=1) == (targets > 50))[1:].mean()
    assert right == pytest.approx(result.test.accuracy, abs=0.011)
