import pytest

from pipelines import rundir


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "a/b", "..", "a\0b", "plain-1.0"])
def test_a_run_of_any_name_lies_in_the_runs_folder(tmp_path, name):
    folder = rundir.make(tmp_path / "runs", name)
    assert folder.parent == tmp_path / "runs"
    assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
