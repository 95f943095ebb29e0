import platform

import pytest

from pipelines.tensorflowenv import tensorflow_environment


@pytest.mark.parametrize(
    ("machine", "given", "onednn"),
    [("x86_64", {}, "1"), ("x86_64", {"TF_ENABLE_ONEDNN_OPTS": "0"}, None), ("aarch64", {}, None)],
    ids=["by itself", "set by the user", "another processor"],
)
def test_onednn_computes_on_every_x86_unless_the_user_says_otherwise(monkeypatch, machine, given, onednn):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert tensorflow_environment(given).get("TF_ENABLE_ONEDNN_OPTS") == onednn
