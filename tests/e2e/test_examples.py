"""The projects in examples/: each learns, is short, and reaches what plain Keras reaches on the same rows."""

from pathlib import Path

import pytest

from benchmarks import examples
from pipelines.config import loader

ROOT = Path(__file__).parents[2]
# The worst that three seeds gave with one worker, three and Keras (`./convoy bench examples`), less two standard errors of an
# accuracy, or of a root mean square, on as many test rows.
AT_LEAST = {"tabular": 0.9, "own_network": 0.92, "fine_tuning": 0.875, "libsvm": 0.905}
LARGEST_ERROR = 59
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVOY_HOME", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield folder


@pytest.mark.parametrize("name", examples.METRICS)
def test_an_example_is_less_than_thirty_lines_and_its_settings_are_valid(name):
    for file in (examples.FOLDER / name).glob("*.py"):
        assert len([line for line in file.read_text().splitlines() if line.strip()]) < 30
    loader.load(examples.FOLDER / name / "config.yml")


@pytest.mark.parametrize("name", examples.METRICS)
def test_an_example_learns_and_keras_alone_reaches_the_same(spark, home, name):
    # Two task slots; three workers are compared by `./convoy bench examples`.
    *others, run = examples.run_example(name, home, 2, 1)
    metric = f"test/{examples.METRICS[name]}"
    reached, alone = run.metrics[metric], examples.in_keras(name, run, 1)
    if name == "regression":
        assert max(reached, alone) < LARGEST_ERROR
        assert reached == pytest.approx(alone, rel=0.1)
    else:
        assert min(reached, alone) > AT_LEAST[name]
        assert reached == pytest.approx(alone, abs=0.06)
    # In the same epochs.
    for scratch in others:
        assert reached > scratch.metrics[metric]
        assert run.summary.epochs == scratch.summary.epochs
