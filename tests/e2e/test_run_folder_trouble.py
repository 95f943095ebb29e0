"""A run folder that is full, read-only or forbidden: one line, exit code 1, and no partial files that a later run would use."""

import subprocess

import pytest
from support.disk_faults import fill, small_disk, without_privileges
from support.submitting import Training, command, environment, write_digits

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_digits(folder)
    return folder


def errors(lines):
    return [line for line in lines if line.startswith("error: ")]


def test_a_disk_that_fills_up_ends_training_with_one_line_that_names_the_file(home):
    with small_disk(home / "small", 12) as disk:
        with Training(home, "training.epochs=100000", f"launch.runs_uri={disk}/runs") as training:
            training.wait_for("epoch 2/")
            ballast = fill(disk)
            assert training.end() == 1
        (error,) = errors(training.lines)
        assert str(disk) in error
        assert "No space left on device" in error
        (warning,) = [line for line in training.lines if "the disk of the run folder " in line]
        assert "is nearly full: " in warning
        noise = [line for line in training.lines if line.startswith(("Traceback", "--- Logging error"))]
        assert not noise, "\n".join(training.lines)
        ballast.unlink()
        (run_dir,) = (disk / "runs").glob("*-convnet-2w-*")
        assert not (run_dir / "model").exists()


def submit_without_privileges(home, *settings):
    return subprocess.run(
        command(home, *settings),
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        preexec_fn=without_privileges,
    )


def test_a_read_only_runs_folder_is_one_line_before_spark_starts(home, tmp_path):
    forbidden = tmp_path / "forbidden"
    forbidden.mkdir(mode=0o555)
    done = submit_without_privileges(home, f"launch.runs_uri={forbidden}/runs")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"error: {forbidden}/runs/")
    assert line.endswith("cannot be created (Permission denied); set launch.runs_uri to a writable folder")


def test_a_read_only_file_system_is_one_line(home, tmp_path):
    with small_disk(tmp_path / "small", 1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=20)
        done = submit_without_privileges(home, f"launch.runs_uri={disk}/runs")
        assert done.returncode == 1
        (line,) = done.stdout.splitlines()
        assert "Read-only file system" in line
