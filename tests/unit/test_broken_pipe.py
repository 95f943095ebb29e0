"""The end of a job whose output nobody reads any more, or finds no room."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRINTING = "print('first', flush=True)\nwhile True: print('more', flush=True)"
FAILING = "raise BrokenPipeError('a peer has gone')"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("body", "code", "traced"), [(PRINTING, 128 + signal.SIGPIPE, False), (FAILING, 1, True)])
def test_only_a_reader_of_the_output_that_ends_is_no_bug(body, code, traced):
    program = f"from pipelines import cli\ndef main(arguments):\n    exec({body!r})\ncli.run(main, [])"
    job = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not traced:
        assert job.stdout.readline() == "first\n"
        job.stdout.close()
    shown = job.stderr.read()
    assert job.wait(timeout=30) == code
    assert ("Traceback" in shown) == traced


@pytest.mark.timeout(60)
@pytest.mark.parametrize("body", ["print('a result')", "print('a result', flush=True)", "import os; os.write(1, b'a result')"])
def test_a_job_whose_result_finds_no_room_fails_in_one_line(body):
    program = f"from pipelines import cli\ndef main(arguments):\n    exec({body!r})\ncli.run(main, [])"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written (No space left on device); free disk space there\n"
