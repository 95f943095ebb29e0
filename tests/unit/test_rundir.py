import os

import pytest

from pipelines.errors import ConfigError
from pipelines.track.rundir import layout


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "a/b", "..", "a\0b", "plain-1.0"])
def test_a_run_of_any_name_is_created_in_the_runs_folder(tmp_path, name):
    folder = layout.make(tmp_path / "runs", name)
    assert folder.parent == tmp_path / "runs"
    assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_sweep_is_found_by_latest_by_its_run_and_by_its_folder(tmp_path):
    for number, name in enumerate(("old", "new")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / layout.SWEEP_FILE).write_text("")
        os.utime(folder / layout.SWEEP_FILE, (number, number))
        layout.write_record(folder, layout.RunRecord(f"run-{name}", "sqlite:///a.db"))
    # A run that is no sweep.
    (tmp_path / "newest").mkdir()
    assert layout.find_sweep(tmp_path, "latest", tmp_path / "latest") == tmp_path / "new"
    assert layout.find_sweep(tmp_path, "run-old", tmp_path / "run-old") == tmp_path / "old"
    assert layout.find_sweep(tmp_path, str(tmp_path / "old"), tmp_path / "old") == tmp_path / "old"
    with pytest.raises(ConfigError, match=r"--resume newest: no such sweep below .*; name its run, its folder, or 'latest'"):
        layout.find_sweep(tmp_path, "newest", tmp_path / "newest")
    with pytest.raises(ConfigError, match=r"--resume run-old: is a sweep; resume it with ./convoy sweep --resume run-old"):
        layout.find(tmp_path, "run-old", tmp_path / "run-old")
    with pytest.raises(ConfigError, match="no such sweep"):
        layout.find_sweep(tmp_path / "none", "latest", tmp_path / "latest")


def test_the_number_of_a_start_is_not_used_again_if_an_earlier_folder_is_gone(tmp_path):
    for number in ("001", "002"):
        assert layout.new_attempt(tmp_path).name == number
    (tmp_path / layout.ATTEMPT_FOLDER / "001").rmdir()
    assert layout.new_attempt(tmp_path).name == "003"
