import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CREATE_FOLDER = "from pipelines.system import temporary; print((temporary.folder('convoy-try-') / 'x').write_text('x'))"


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (CREATE_FOLDER, 0),
        (f"from pipelines import cli; cli.run(lambda _: exec({CREATE_FOLDER!r}), [])", 0),
        (f"from pipelines import cli; cli.run(lambda _: (exec({CREATE_FOLDER!r}), 1 / 0), [])", 1),
    ],
    ids=["plain Python", "job", "failing job"],
)
def test_a_temporary_folder_is_removed_however_its_process_exits(tmp_path, ending, code):
    variables = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ending], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "1\n")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_is_private_to_its_user(tmp_path, monkeypatch):
    from pipelines.system import temporary

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = temporary.folder("convoy-try-")
    assert folder.stat().st_mode & 0o777 == 0o700
    temporary.remove()
    assert list(tmp_path.iterdir()) == []
