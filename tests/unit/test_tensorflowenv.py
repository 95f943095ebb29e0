import contextlib
import importlib
import os
import platform
import sys

import pytest

from pipelines.system.tensorflow_env import import_for_training, tensorflow_environment, without_import_messages


@pytest.mark.parametrize(
    ("machine", "environment", "onednn"),
    [("x86_64", {}, "1"), ("x86_64", {"TF_ENABLE_ONEDNN_OPTS": "0"}, None), ("aarch64", {}, None)],
    ids=["default", "set by the user", "another processor"],
)
def test_onednn_is_enabled_on_x86_unless_set_by_the_user(monkeypatch, machine, environment, onednn):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert tensorflow_environment(environment).get("TF_ENABLE_ONEDNN_OPTS") == onednn


@pytest.mark.parametrize("imported_before", [False, True])
def test_unused_packages_are_hidden_from_tensorflow_and_importable_afterwards(monkeypatch, tmp_path, imported_before):
    (tmp_path / "sklearn.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    if imported_before:
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
    assert {name: module is not None for name, module in found.items()} == {"tensorflow": imported_before}
    assert imported("sklearn").__file__ == str(tmp_path / "sklearn.py")


@pytest.mark.parametrize("fails", [False, True])
def test_what_an_import_prints_is_shown_only_if_it_fails(capfd, fails):
    with contextlib.suppress(ImportError), without_import_messages():
        os.write(2, b"oneDNN custom operations are on\n")
        if fails:
            raise ImportError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == ("oneDNN custom operations are on\n" if fails else "") + "after\n"
