import importlib
import platform
import sys

import pytest

from pipelines.system.tensorflow_env import import_for_training, tensorflow_environment


@pytest.mark.parametrize(
    ("machine", "given", "onednn"),
    [("x86_64", {}, "1"), ("x86_64", {"TF_ENABLE_ONEDNN_OPTS": "0"}, None), ("aarch64", {}, None)],
    ids=["by itself", "set by the user", "another processor"],
)
def test_onednn_computes_on_every_x86_unless_the_user_says_otherwise(monkeypatch, machine, given, onednn):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert tensorflow_environment(given).get("TF_ENABLE_ONEDNN_OPTS") == onednn


@pytest.mark.parametrize("there_before", [False, True])
def test_what_a_training_never_uses_is_not_imported_with_tensorflow_and_can_be_afterwards(monkeypatch, tmp_path, there_before):
    (tmp_path / "sklearn.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    if there_before:
        importlib.import_module("sklearn")
    imported = importlib.import_module
    found = {}

    def import_module(name):
        try:
            found[name] = imported("sklearn")
        except ImportError:
            found[name] = None

    monkeypatch.setattr(importlib, "import_module", import_module)
    import_for_training()
    assert {name: module is not None for name, module in found.items()} == {"tensorflow": there_before}
    assert imported("sklearn").__file__ == str(tmp_path / "sklearn.py")
