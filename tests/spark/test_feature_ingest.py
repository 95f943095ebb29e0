import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import dump_svmlight_file
from support.features import features_and_targets, write_libsvm
from support.ingesting import ingest
from support.reported import ReportedLines

from pipelines.data.table.schema import read_manifest
from pipelines.errors import DataError
from pipelines.system import paths

FEATURES = ("data.features=5", "data.classes=2", "data.value_range=auto")
STANDARDIZED = (*FEATURES, "data.scaling=standardize", "ingest.rows_per_row_group=70")


def rows_of(built, split, column):
    files = built.manifest.splits[split].files
    return [row for file in files for row in pq.read_table(f"{built.uri}/{file.path}")[column].to_pylist()]


def values_of(built, split, column="features"):
    return np.stack([np.frombuffer(row, "<f4") for row in rows_of(built, split, column)])


@pytest.fixture
def file(tmp_path):
    write_libsvm(tmp_path / "own.libsvm", 600, classes=True)
    return tmp_path / "own.libsvm"


def test_features_are_stored_with_the_statistics_of_the_training_rows_alone(spark, file, tmp_path):
    lines = ReportedLines()
    built, _ = ingest(spark, file, tmp_path / "tables", *STANDARDIZED, reporter=lines)
    spec, expected = built.manifest.spec, features_and_targets(600)[0]
    assert (spec.shape, spec.dtype, spec.scaling, spec.checks_range) == ((5,), "float32", "standardize", False)
    everything = np.concatenate([values_of(built, split) for split in ("train", "validation", "test")])
    assert {row.tobytes() for row in everything} == {row.tobytes() for row in expected}
    train = values_of(built, "train").astype(np.float64)
    assert len(train) < 600
    np.testing.assert_allclose(spec.means, train.mean(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(spec.deviations, [*train.std(axis=0)[:4], 1.0], rtol=1e-9)
    assert spec.value_range == (train.min(), train.max())
    said = f"data.value_range=auto: the values of the training rows range from {train.min():g} to {train.max():g}"
    assert said in lines
    assert read_manifest(paths.to_python(built.uri)) == built.manifest

    again = ReportedLines()
    reused, new = ingest(spark, file, tmp_path / "tables", *STANDARDIZED, reporter=again)
    assert (reused, new) == (built, False)
    assert said in again


def test_statistics_do_not_depend_on_partitioning(spark, file, tmp_path):
    first, _ = ingest(spark, file, tmp_path / "a", *STANDARDIZED)
    spark.conf.set("spark.sql.files.maxPartitionBytes", "5000")
    try:
        second, _ = ingest(spark, file, tmp_path / "b", *STANDARDIZED)
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    assert first.manifest.spec == second.manifest.spec
    assert first.manifest.splits == second.manifest.splits


def test_the_range_of_libsvm_text_includes_the_zeros_that_it_omits(spark, tmp_path):
    file = tmp_path / "own.libsvm"
    file.write_text("".join(f"{number % 2} 1:{5 + number % 3} 2:7.5\n" for number in range(60)))
    built, _ = ingest(spark, file, tmp_path / "tables", "data.features=2", "data.classes=2", "data.value_range=auto")
    assert built.manifest.spec.value_range == (0.0, 7.5)
    file.write_text("".join(f"{number % 2}\n" for number in range(60)))
    empty, _ = ingest(spark, file, tmp_path / "tables", "data.features=2", "data.classes=2", "data.value_range=auto")
    assert empty.manifest.spec.value_range == (0.0, 1.0)


def test_numbers_are_stored_as_targets_with_their_moments(spark, tmp_path):
    write_libsvm(tmp_path / "own.libsvm", 400, classes=False)
    settings = ("data.features=5", "data.value_range=auto", "data.task=regression")
    built, _ = ingest(spark, tmp_path / "own.libsvm", tmp_path / "tables", *settings)
    manifest, (values, targets) = built.manifest, features_and_targets(400)
    assert (manifest.labels, manifest.class_names, manifest.target_names) == ((), (), ("target",))
    assert {split.rows_per_label for split in manifest.splits.values()} == {()}
    by_row = {row.tobytes(): target for row, target in zip(values, targets, strict=True)}
    for split in manifest.splits:
        stored = values_of(built, split, "target")
        assert stored[:, 0].tolist() == [by_row[row.tobytes()] for row in values_of(built, split)]
    train = values_of(built, "train", "target").astype(np.float64)
    np.testing.assert_allclose(manifest.target_means, train.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(manifest.target_deviations, train.std(axis=0), rtol=1e-10)


def test_a_bad_target_is_reported_with_its_line_or_set_aside(spark, tmp_path):
    file = tmp_path / "own.libsvm"
    write_libsvm(file, 300, classes=False)
    lines = file.read_text().splitlines()
    lines[122] = "nan 1:1"
    file.write_text("\n".join(lines) + "\n")
    settings = ("data.features=5", "data.value_range=auto", "data.task=regression")
    with pytest.raises(DataError, match=r"own\.libsvm:123: the target 'nan' is not a finite number"):
        ingest(spark, file, tmp_path / "tables", *settings)
    built, _ = ingest(spark, file, tmp_path / "tables", *settings, "ingest.on_bad_rows=quarantine")
    assert built.manifest.rejected_by_reason == {"target_not_finite": 1}
    assert sum(built.manifest.rows(split) for split in built.manifest.splits) == 299


def test_as_many_features_as_are_allowed_are_ingested(spark, tmp_path):
    file = tmp_path / "wide.libsvm"
    file.write_text("".join(f"{row % 2} {row + 1}:{row + 0.5} 65536:1\n" for row in range(64)))
    settings = ("data.features=65536", "data.classes=2", "data.value_range=auto", "data.scaling=standardize")
    built, _ = ingest(spark, file, tmp_path / "tables", *settings)
    train = values_of(built, "train")
    assert train.shape[1] == 65536
    np.testing.assert_allclose(built.manifest.spec.means, train.mean(axis=0, dtype=np.float64), rtol=1e-10)


def test_pictures_are_standardized_by_channel(spark, tmp_path):
    file = tmp_path / "own.libsvm"
    values = np.random.default_rng(1).integers(1, 256, (60, 12))
    dump_svmlight_file(values, np.arange(60) % 2, str(file), zero_based=False)
    built, _ = ingest(spark, file, tmp_path / "tables", "data.image_shape=[2,2,3]", "data.classes=2", "data.scaling=standardize")
    train = np.stack([np.frombuffer(row, np.uint8) for row in rows_of(built, "train", "image")]).reshape(-1, 3)
    np.testing.assert_allclose(built.manifest.spec.means, train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(built.manifest.spec.deviations, train.std(axis=0), rtol=1e-12)
    assert built.manifest.spec.value_range == (0.0, 255.0)
