from pathlib import Path

import pytest
import yaml

from pipelines.errors import ConfigError
from pipelines.sweep import sweep_file

ROOT = Path(__file__).parents[2]
CONVNET, MLP = str(ROOT / "conf/convnet.yml"), str(ROOT / "conf/mlp.yml")


@pytest.fixture
def load(tmp_path):
    """Loads a sweep file with the given keys."""

    def read(*overrides, **content):
        file = tmp_path / "trial.yml"
        file.write_text(yaml.safe_dump({"config": CONVNET} | content if "configs" not in content else content, sort_keys=False))
        return sweep_file.load(file, overrides)

    return read


@pytest.mark.parametrize("file", sorted((ROOT / "conf/sweeps").glob("*.yml")), ids=lambda file: file.name)
def test_every_sweep_file_of_the_repository_is_valid_and_documents_its_command(file, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(ROOT))
    sweep = sweep_file.load(file)
    assert sweep.trials >= 10
    assert f"./convoy sweep conf/sweeps/{file.name}" in file.read_text()


def test_the_course_compares_its_networks_with_three_seeds_each(monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(ROOT))
    sweep = sweep_file.load(ROOT / "conf/sweeps/course.yml")
    configs = [sweep.configuration(point) for point in sweep.points]
    assert {config.model.name for config in configs} >= {"mlp", "convnet", "convnet_two", "convnet_dropout"}
    assert [config.training.seed for config in configs[:3]] == [1, 2, 3]
    assert configs[0].training.epochs == 40


def test_the_learning_rate_of_large_batches_scales_with_the_batch(monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(ROOT))
    sweep = sweep_file.load(ROOT / "conf/sweeps/large_batch.yml")
    found = [sweep.configuration(point) for point in sweep.points[::3]]
    batches = [config.launch.workers * config.training.batch_size_per_worker for config in found]
    assert batches == [128, 256, 512, 1024, 2048, 4096, 8192]
    scaling = {(config.training.learning_rate_scaling, config.training.learning_rate_batch) for config in found}
    assert scaling == {("linear", 128)}
    assert all(config.training.warmup_epochs > 0 for config in found)


def test_a_grid_has_every_combination_and_points_vary_settings_together(load):
    sweep = load(
        space={"training.seed": [1, 2]},
        points={"size": {"small": {"training.batch_size_per_worker": 32, "training.base_learning_rate": 0.1}, "none": {}}},
    )
    found = [sweep.configuration(point).training for point in sweep.points]
    assert [(t.seed, t.batch_size_per_worker, t.base_learning_rate) for t in found] == [
        (1, 32, 0.1),
        (1, 128, 0.001),
        (2, 32, 0.1),
        (2, 128, 0.001),
    ]


def test_several_conf_files_are_an_axis_and_flags_override_the_sweep_file(load):
    sweep = load("training.epochs=2", configs=[MLP, CONVNET], set={"training.epochs": 7, "training.seed": 5})
    found = [sweep.configuration(point) for point in sweep.points]
    assert [config.model.name for config in found] == ["mlp", "convnet"]
    assert {(config.training.epochs, config.training.seed) for config in found} == {(2, 5)}


def test_the_copy_in_the_folder_restores_the_same_sweep_without_the_conf_files(load, tmp_path):
    sweep = load(
        "data.dataset=mnist-5k",
        configs=[MLP, CONVNET],
        set={"training.epochs": 1},
        space={"data.image_shape": [[28, 28, 1]], "training.base_learning_rate": [0.001, "1e-2"]},
        seeds=[1, 2],
    )
    sweep_file.save(sweep, tmp_path / "kept")
    again = sweep_file.load(tmp_path / "kept/sweep.yml")
    assert (again.bases, again.axes, again.config) == (sweep.bases, sweep.axes, sweep.config)
    assert [again.configuration(point) for point in again.points] == [sweep.configuration(point) for point in sweep.points]
    assert again.base.data.dataset == "mnist-5k"


NUMBERS = {"set": {"data.task": "regression", "data.targets": 2}}


@pytest.mark.parametrize(("objective", "minimised"), [("loss", True), ("rmse", True), ("mae", True), ("r2", False)])
def test_a_sweep_of_numbers_follows_their_metrics_in_their_direction(load, objective, minimised):
    sweep = load(**NUMBERS, objective=f"validation/{objective}", space={"training.seed": [1, 2]})
    assert (sweep.minimised, sweep.tested) == (minimised, "test/rmse")


DRAWN = {"search": "random", "trials": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"spaces": {}}, "unknown key spaces; did you mean space?"),
        ({"search": "gird"}, "search=gird: must be one of grid, random, bayesian"),
        ({"trials": 3}, "trials=3: must be left out with search grid"),
        ({"search": "random"}, "trials=0: must be at least 1 with search random"),
        ({"trials": "many", "search": "random"}, "trials=many: must be a whole number"),
        ({"objective": "test/accuracy"}, "objective=test/accuracy: must be one of validation/loss, validation/accuracy"),
        (
            {**NUMBERS, "objective": "validation/accuracy"},
            "objective=validation/accuracy: must be one of validation/loss, validation/rmse, validation/mae, validation/r2",
        ),
        ({"purpose": "compare", "pruning": "median"}, "pruning=median: must be none with purpose compare"),
        ({"purpose": "compare", **DRAWN}, "purpose=compare: must be choose unless search is grid"),
        ({"config": "conf/nosuch.yml"}, "no such configuration file"),
        ({"configs": [MLP, MLP]}, "must be files whose names differ"),
        ({"configs": MLP}, "must be a list of configuration files"),
        ({"set": {"training.epoch": 1}}, "unknown setting training.epoch; did you mean training.epochs?"),
        ({"set": {"training.epochs": 0}}, "training.epochs=0: must be at least 1"),
        ({"space": {"training.epoch": [1]}}, "unknown setting training.epoch; did you mean training.epochs?"),
        ({"space": {"training.epochs": 3}}, "space.training.epochs=3: must be a list of values, or a range"),
        ({"space": {"training.epochs": [1, "two"]}}, "training.epochs=two: must be a whole number"),
        ({"space": {"training.epochs": [1, 1]}}, "must be a list without repetitions"),
        ({"space": {"training.epochs": [1, 0]}}, "training.epochs=0: must be at least 1 (with epochs 0)"),
        ({"space": {"training.optimizer": ["adam", "adan"]}}, "training.optimizer=adan: must be one of adam, adamw, sgd, lamb"),
        ({"space": {"model.name": ["mlp", "nosuch"]}}, "model.name=nosuch"),
        (
            {"space": {"training.optimizer": ["sgd", "adam"], "training.momentum": [0.9]}},
            "training.momentum=0.9: must be 0 unless",
        ),
        ({"space": {"training.base_learning_rate": {"low": 0.1, "high": 0.2}}}, "must be a list of values with search grid"),
        ({**DRAWN, "space": {"training.base_learning_rate": {"low": 0.1}}}, "must have low and high, and may have log: true"),
        ({**DRAWN, "space": {"training.base_learning_rate": {"low": 0, "high": 1, "log": True}}}, "must be more than 0 with log"),
        ({**DRAWN, "space": {"training.base_learning_rate": {"low": 2, "high": 1}}}, "must be a low end below a high one"),
        (
            {**DRAWN, "space": {"training.base_learning_rate": {"low": 0.0, "high": 1}}},
            "training.base_learning_rate=0.0: must be at least 1e-30",
        ),
        ({**DRAWN, "space": {"training.epochs": {"low": 1.5, "high": 3}}}, "training.epochs=1.5: must be a whole number"),
        (
            {**DRAWN, "space": {"training.optimizer": {"low": 1, "high": 3}}},
            "must be a list of choices; only numbers have a range",
        ),
        ({**DRAWN, "seeds": [1, 2]}, "seeds: only with search grid"),
        ({"points": {"a": {"x": {"training.epoch": 1}}}}, "points.a.x: unknown setting training.epoch"),
        ({"points": {"a": [1]}}, "points.a: must contain named points with their settings"),
        (
            {"space": {"training.epochs": [1]}, "set": {"training.epochs": 2}},
            "training.epochs: is varied by training.epochs, so it",
        ),
        (
            {"space": {"training.epochs": [1]}, "points": {"a": {"x": {"training.epochs": 2}}}},
            "training.epochs: is varied by a, so it must not also be in training.epochs",
        ),
        ({"space": {"tracking.experiment": ["a"]}}, "tracking.experiment: must be the same for all trials"),
        ({"config": str(ROOT / "conf/convnet_dropout.yml")}, "ingest.validation_fraction=0.0: must be more than 0"),
        ({"space": {"training.seed": list(range(40)), "training.epochs": list(range(1, 41))}}, "at most 1,000 points"),
    ],
)
def test_an_error_is_one_line_that_names_file_key_value_and_rule(load, content, message):
    with pytest.raises(ConfigError) as error:
        load(**content)
    text = str(error.value)
    assert message in text
    assert text.count("trial.yml: ") == 1
    assert "\n" not in text


def test_a_flag_that_the_sweep_varies_is_refused(load):
    with pytest.raises(ConfigError, match=r"training.epochs: is varied by training.epochs, so it must not also be in --set"):
        load("training.epochs=2", space={"training.epochs": [1]})
