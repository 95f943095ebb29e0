"""Data of another shape, from file to test accuracy, with no change but settings."""

import pytest
from PIL import Image
from sklearn.datasets import dump_svmlight_file, load_digits
from support import features
from support.ingesting import ingest
from support.synthetic import images_and_labels, write_libsvm

from pipelines.config import loader
from pipelines.launch.train_function import work
from pipelines.launch.workers import barrier

pytestmark = pytest.mark.timeout(180)

COLORED = ("data.image_shape=[32,32,3]", "data.classes=4")


def write_digits(folder):
    """The 1,797 real digits of 8 x 8 pixels and 16 gray levels that scikit-learn includes (UCI, Alpaydin and Kaynak 1998)."""
    digits = load_digits()
    dump_svmlight_file(digits.data, digits.target, str(folder / "digits.libsvm"), zero_based=False)
    return folder / "digits.libsvm"


def write_color_libsvm(folder):
    write_libsvm(folder / "flags.libsvm", 300, (32, 32, 3))
    return folder / "flags.libsvm"


def write_color_images(folder):
    for number, (image, label) in enumerate(zip(*images_and_labels(300, (32, 32, 3)), strict=True)):
        path = folder / "flags" / f"country-{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder / "flags"


@pytest.mark.parametrize(
    ("write", "settings", "rows"),
    [
        (write_digits, ("data.image_shape=[8,8,1]", "data.value_range=[0,16]", "data.classes=10"), 1797),
        (write_color_libsvm, COLORED, 300),
        (write_color_images, COLORED, 300),
    ],
    ids=["gray 8x8 libsvm", "color libsvm", "color images"],
)
def test_a_network_learns_data_of_another_shape_by_configuration_alone(spark, fork_server, tmp_path, write, settings, rows):
    data = write(tmp_path)
    table, _ = ingest(spark, data, tmp_path / "tables", *settings)
    recipe = ("model.name=convnet", "training.epochs=6", "training.batch_size_per_worker=16", "training.precision=float32")
    config = loader.load(None, [*settings, *recipe])
    (result,) = barrier.start(
        spark, work, (config, table, str(tmp_path)), launch=config.launch, work_dir=tmp_path, fork_server=fork_server
    ).results()
    assert sum(table.manifest.rows(split) for split in ("train", "validation", "test")) == rows
    assert result.test.rows == table.manifest.rows("test") >= 30
    assert result.test.accuracy > 0.9


@pytest.mark.parametrize("workers", [1, 2])
def test_features_that_are_no_picture_are_learned_from_file_to_test_accuracy(spark, fork_server, tmp_path, workers):
    features.write_libsvm(tmp_path / "own.libsvm", 800, classes=True)
    settings = ("data.features=5", "data.classes=2", "data.value_range=auto", "data.scaling=standardize")
    table, _ = ingest(spark, tmp_path / "own.libsvm", tmp_path / "tables", *settings)
    recipe = ("model.name=mlp_wide", "training.epochs=8", "training.batch_size_per_worker=16", "training.precision=float32")
    config = loader.load(None, [*settings, *recipe, f"launch.workers={workers}"])
    result, *others = barrier.start(
        spark, work, (config, table, str(tmp_path)), launch=config.launch, work_dir=tmp_path, fork_server=fork_server
    ).results()
    assert {other.weights_sha256 for other in others} <= {result.weights_sha256}
    assert result.test.rows == 80
    assert result.test.accuracy > 0.9
