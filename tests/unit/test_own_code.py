"""Networks, losses, metrics and callbacks of the user's, as the driver reads them: nothing of them is run."""

import sys

import pytest

from pipelines import cli
from pipelines.config import loader
from pipelines.errors import ConfigError
from pipelines.launch import user_inputs
from pipelines.models.custom import requested, sources
from pipelines.system import import_path

NETWORK = """
import keras

def build(spec, outputs, width=64, *, depth=1):
    raise AssertionError("the driver must not run this")
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORK)
    return tmp_path / "mine.py"


def refusal(*settings):
    with pytest.raises(ConfigError) as error:
        user_inputs.check(loader.load(None, settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_network_of_ones_own_is_read_with_its_digest_and_not_run(mine):
    (file,) = user_inputs.check(loader.load(None, [f"model.name={mine}:build", "model.arguments={width: 8, depth: 2}"])).code
    assert (file.text, file.path, file.is_file) == (NETWORK, str(mine), True)
    assert file.module_name == f"mine_{file.sha256[:12]}"


def test_a_file_is_found_at_any_location_of_the_path_layer(mine, monkeypatch):
    monkeypatch.setenv("CONVOY_DBFS_ROOT", str(mine.parent))
    for location in (f"file:{mine}", "dbfs:/mine.py", "/dbfs/mine.py"):
        (file,) = user_inputs.check(loader.load(None, [f"model.name={location}:build"])).code
        assert file.text == NETWORK


def test_a_file_on_the_command_line_is_looked_for_in_the_working_directory(mine, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(mine.parent / "home"))
    monkeypatch.chdir(mine.parent)
    arguments = ["--set", "model.name=mine.py:build", "--set", "training.callbacks=[all:mine.py:Mine, keras.callbacks:History]"]
    config = cli.parse(arguments, "", None).config
    assert config.model.name == f"{mine}:build"
    assert config.training.callbacks == (f"all:{mine}:Mine", "keras.callbacks:History")


def test_a_module_of_a_package_is_read_without_running_the_package(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text("raise AssertionError")
    (tmp_path / "my_package/networks.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    (file,) = user_inputs.check(loader.load(None, ["model.name=my_package.networks:build"])).code
    assert (file.text, file.module_name, "my_package" in sys.modules) == (NETWORK, "my_package.networks", False)


def test_a_loss_a_metric_and_a_callback_are_read_from_their_files_each_once(mine, tmp_path):
    (tmp_path / "more.py").write_text("def loss(a, b): ...\ndef metric(a, b): ...\nclass Watch: ...\n")
    more = tmp_path / "more.py"
    settings = [f"training.loss={more}:loss", f"training.metrics=[mae, {more}:metric]", f"training.callbacks=[all:{more}:Watch]"]
    files = user_inputs.check(loader.load(None, [f"model.name={mine}:build", *settings])).code
    assert [file.file_name for file in files] == ["mine.py", "more.py"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/mime.py:build", "there is no file {folder}/mime.py; did you mean {folder}/mine.py?"),
        ("{folder}/mine.py:biuld", "defines no biuld; did you mean build?"),
        ("{folder}/mine.py:", "must be package.module:function or path/to/file.py:function"),
        ("no_such_package.networks:build", "there is no module no_such_package.networks here"),
        ("convnett", "no such network; did you mean convnet?"),
    ],
)
def test_a_network_that_is_not_there_is_one_line(mine, name, message):
    assert message.format(folder=mine.parent) in refusal(f"model.name={name.format(folder=mine.parent)}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{wdth: 3}", "takes no wdth; did you mean width?"),
        ("{spec: 3}", "takes no spec"),
    ],
)
def test_an_argument_that_the_function_does_not_take_is_one_line_with_its_place(mine, arguments, message):
    line = refusal(f"model.name={mine}:build", f"model.arguments={arguments}")
    assert line.startswith(f"model.arguments: build in {mine} line 4 ")
    assert message in line


def test_a_registered_network_takes_no_arguments():
    assert "convnet takes none" in refusal("model.name=convnet", "model.arguments={width: 3}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def build(spec, outputs:\n", " line 1: is not valid Python"),
        ("\ndef build(spec): ...\n", " line 2: build must take the table's spec and the number of outputs"),
        ("def build(spec, outputs, width): ...\n", "needs width; add it"),
        ("import pyspark\ndef build(spec, outputs): ...\n", " line 1: imports pyspark, which the logged model must not need"),
        ("\nimport helper\ndef build(spec, outputs): ...\n", " line 2: imports helper, which lies beside it"),
        ("import no_such_package\ndef build(spec, outputs): ...\n", " line 1: imports no_such_package, which is not installed"),
        ("from . import helper\ndef build(spec, outputs): ...\n", " line 1: a file has no package to import from"),
    ],
)
def test_a_file_that_cannot_work_is_one_line_with_its_place(tmp_path, source, message):
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "bad.py").write_text(source)
    line = refusal(f"model.name={tmp_path}/bad.py:build")
    assert str(tmp_path / "bad.py") in line
    assert message in line


def test_what_cannot_be_known_without_running_a_file_is_not_refused(tmp_path):
    (tmp_path / "any.py").write_text(
        "try:\n    import no_such_package\nexcept ImportError:\n    pass\n"
        "def made(function): return function\n@made\ndef build(*a, **k): ...\nother = build\n"
    )
    for name in ("build", "other"):
        user_inputs.check(loader.load(None, [f"model.name={tmp_path}/any.py:{name}", "model.arguments={width: 3}"]))


def test_a_changed_file_is_refused_with_digests_and_the_first_line_that_differs(mine, tmp_path):
    config = loader.load(None, [f"model.name={mine}:build"])
    before = user_inputs.prepare(config, None)
    before.keep(tmp_path)
    assert (tmp_path / "code/mine.py").read_text() == NETWORK
    assert user_inputs.prepare(config, tmp_path).code == before.code
    mine.write_text(NETWORK.replace("width=64", "width=32"))
    with pytest.raises(ConfigError, match=r"line 4: 'def build\(spec, outputs, width=64") as error:
        user_inputs.prepare(config, tmp_path)
    assert before.code[0].sha256[:12] in str(error.value)
    assert str(tmp_path / "code/mine.py") in str(error.value)


def test_the_difference_of_a_longer_file_is_its_first_new_line():
    old, new = (sources.SourceFile(module="m.py", path="m.py", text=text, is_file=True) for text in ("a = 1\n", "a = 1\nb = 2\n"))
    assert sources.difference(old, new) == "line 2: end of file -> 'b = 2'"


def test_weights_that_are_not_there_or_no_file_of_keras_are_one_line(tmp_path):
    (tmp_path / "model.h5").touch()
    assert "there is no such file" in refusal(f"model.weights={tmp_path}/model.keras")
    assert "is no file of Keras' weights" in refusal(f"model.weights={tmp_path}/model.h5")


def test_a_resumed_run_has_its_weights_whatever_became_of_their_file(tmp_path):
    file = tmp_path / "first.keras"
    file.write_text("weights")
    config = loader.load(None, [f"model.weights={file}"])
    user_inputs.prepare(config, None).keep(tmp_path)
    file.unlink()
    assert user_inputs.prepare(config, tmp_path).weights is None
    assert (tmp_path / "initial_weights/first.keras").read_text() == "weights"


def test_short_names_of_import_paths_are_those_of_file_or_module_and_function():
    for text in ("/a/b/mine.py:build", "dbfs:/a/mine.py:build", "package.mine:build"):
        assert import_path.short(text) == "mine:build"
    assert import_path.short("runs/networks/1a2b/mine.py:mine") == "mine"
    assert import_path.short("convnet") == "convnet"


def test_files_of_the_same_name_with_other_content_are_one_line(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def build(spec, outputs): ...\nx = '{folder}'\n")
    assert "has this name, too" in refusal(
        f"model.name={tmp_path}/a/mine.py:build", f"training.metrics=[{tmp_path}/b/mine.py:build]"
    )


def test_every_import_path_in_the_settings_is_found():
    settings = ["model.name=a.py:b", "training.loss=c.py:d", "training.metrics=[mae, e.f:g]", "training.callbacks=[all:h.py:I]"]
    found = [str(path) for _, path in requested.import_paths(loader.load(None, settings))]
    assert found == ["a.py:b", "c.py:d", "e.f:g", "h.py:I"]
