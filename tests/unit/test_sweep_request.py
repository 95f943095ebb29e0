"""Invalid `sweep` commands are refused before Spark starts and before anything is written."""

import runpy
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.track.rundir import layout

ROOT = Path(__file__).parents[2]


@pytest.fixture
def main(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_HOME", str(tmp_path))
    return runpy.run_path(str(ROOT / "jobs/sweep.py"))["main"]


@pytest.fixture
def sweep(tmp_path):
    """The folder of an interrupted sweep."""
    folder = tmp_path / "runs/20260101-000000-demo"
    folder.mkdir(parents=True)
    (folder / layout.SWEEP_FILE).write_text(f"config: {ROOT / 'conf/convnet.yml'}\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either FILE or --resume SWEEP is required; ready-made sweeps are in conf/sweeps/"),
        (["a.yml", "--resume", "latest"], "either FILE or --resume SWEEP is required"),
        (["a.yml"], "a.yml: no such"),
        (["a.yml", "--summary", "/nosuch/s.json"], "--summary /nosuch/s.json: the folder does not exist"),
        (["--resume", "other"], "--resume other: no such sweep below"),
        (["--resume", "latest", "--workers", "2"], "a resumed sweep keeps its settings; leave launch.workers=2 out"),
        (["--resume", "latest", "--set", "tracking.experimen=a"], "unknown setting tracking.experimen"),
    ],
)
def test_an_invalid_command_is_one_line_and_writes_nothing(main, sweep, tmp_path, arguments, message):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as error:
        main(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
