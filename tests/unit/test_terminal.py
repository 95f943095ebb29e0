"""The progress bar on a pseudo-terminal of a given size."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from pipelines.track.console import terminal
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir.events import EpochEnd, Event, StepProgress, TrainingPlan

PLAN = TrainingPlan(
    rows=54000,
    workers=2,
    batch_size_per_worker=64,
    steps=100,
    learning_rate=0.01,
    threads=1,
    precision="bfloat16",
    in_memory=True,
    held_mb=42,
    epoch=0,
    step=0,
)
METRICS = {"train/loss": 0.5, "train/accuracy": 0.9, "epoch_seconds": 9.5, "rows_per_second": 5400.0}
# Reports progress once for each line of its standard input.
FOLLOWER = f"""
import sys
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir.events import EpochEnd, Event, StepProgress, TrainingPlan
console = TrainingConsole(3, sys.argv[1])
console.show(Event(0, 0.0, {PLAN!r}))
for number, line in enumerate(sys.stdin, 1):
    values = StepProgress(epoch=1, step=number * 10, rows_per_second=12345.6, metrics=dict(accuracy=0.9876, loss=0.1234))
    console.show(Event(0, float(number), values))
console.show(Event(0, 9.0, EpochEnd(1, {METRICS!r})))
console.warn("[be] warned")
console.close()
"""


def set_size(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def rest_of(master):
    """Read everything written before the other side was closed."""
    shown = b""
    with contextlib.suppress(OSError):
        while True:
            shown += os.read(master, 65536)
    return shown


def follow(sizes, verbosity="normal", term="xterm"):
    """Output of a console on a terminal that is resized before each progress report."""
    master, slave = pty.openpty()
    set_size(slave, sizes[0])
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, verbosity], stdin=subprocess.PIPE, stdout=slave, env=os.environ | {"TERM": term}
    )
    shown = b""
    try:
        for number, columns in enumerate(sizes):
            set_size(slave, columns)
            process.stdin.write(b"go\n")
            process.stdin.flush()
            # A quiet console shows no progress to wait for.
            if verbosity != "quiet" and term != "dumb":
                while shown.count(b"rows/s") + shown.count("…".encode()) < number + 1:
                    shown += os.read(master, 65536)
        process.stdin.close()
        os.close(slave)
        shown += rest_of(master)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        os.close(master)
    return shown.decode()


def frames_of(shown):
    """The bar as drawn each time, without colors."""
    plain = re.sub(r"\x1b\[[\d;]*m|\x1b\[\?25[hl]", "", shown)
    drawn = re.split(r"\r\x1b\[2K|\r\n", plain)
    return [frame for frame in drawn if "epoch 1/3" in frame and "train loss" not in frame]


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_progress_bar_fits_any_terminal(columns):
    frames = frames_of(follow([columns] * 3))[:3]
    assert len(frames) == 3
    assert max(map(len, frames)) < columns
    assert ("━" in frames[2]) == (columns >= 80)
    assert ("rows/s" in frames[2]) == (columns >= 80)


def test_a_resized_window_gets_lines_of_its_new_size():
    sizes = [200, 40, 80, 30]
    lengths = [len(frame) for frame in frames_of(follow(sizes))[:4]]
    assert all(length < columns for length, columns in zip(lengths, sizes, strict=True))
    assert lengths[0] > 80
    assert lengths[2] > lengths[1] > lengths[3]


def test_permanent_lines_are_complete_and_the_progress_bar_is_removed():
    shown = follow([40, 40])
    lines = shown.split("\r\n")
    assert any(line.endswith("epoch 1/3  train loss 0.5000 accuracy 0.9000  9.5 s  5,400 rows/s") for line in lines)
    assert any(line.endswith("warning: [be] warned") for line in lines)
    assert shown.endswith("\r\x1b[1A\x1b[2K")


def test_the_cursor_stays_visible_so_that_a_kill_cannot_hide_it():
    shown = follow([80, 80])
    assert shown.index("\x1b[?25h") < shown.index("\x1b[2K")
    assert shown.rindex("\x1b[?25l") < shown.index("\x1b[2K")


def test_quiet_shows_warnings_only_and_moves_no_cursor():
    assert follow([80, 80], "quiet") == "warning: [be] warned\r\n"


def test_quiet_still_shows_warnings(capsys):
    console = TrainingConsole(3, "quiet")
    console.say("table t (built)")
    console.warn("table t has no manifest; the table is written again")
    assert capsys.readouterr().out == "warning: table t has no manifest; the table is written again\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines():
    shown = follow([80, 80], term="dumb")
    assert "\x1b" not in shown
    assert "epoch 1/3  train loss" in shown


def test_off_a_terminal_each_epoch_is_one_plain_line(capsys):
    console = TrainingConsole(3)
    console.show(Event(0, 0.0, PLAN))
    console.show(Event(0, 1.0, StepProgress(1, 10, 1.0)))
    console.show(Event(0, 9.0, EpochEnd(1, METRICS)))
    console.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("54,000 rows, 2 workers x batch 64 = global batch 128")
    assert lines[1:] == ["epoch 1/3  train loss 0.5000 accuracy 0.9000  9.5 s  5,400 rows/s"]


def test_closing_the_window_raises_nothing():
    master, slave = pty.openpty()
    line = terminal.StatusLine(os.dup(slave))
    os.close(slave)
    line.show(0.1, "epoch 1/3")
    os.close(master)
    line.show(0.2, "epoch 1/3")
    line.print("a line")
    line.close()


def test_rich_is_imported_with_the_first_progress():
    code = (
        "import sys\nfrom pipelines.track.console import terminal\nline = terminal.StatusLine(2)\nline.print('a line')\n"
        "print('rich' in sys.modules)\nline.show(0.1, 'epoch 1/3')\nprint('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("width", range(2, 130))
def test_a_line_is_never_longer_than_the_window(width, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    set_size(slave, width)
    line = terminal.StatusLine(slave)
    for share in (0.0, 0.5, 1.0):
        line.show(share, "epoch 10/10  1:00:00 left  accuracy 0.1234  loss 1.2345  12,345 rows/s")
    os.close(slave)
    shown = rest_of(master)
    os.close(master)
    plain = re.sub(r"\x1b\[[\d;]*m|\x1b\[\?25[hl]", "", shown.decode())
    frames = re.split(r"\r\x1b\[2K", plain)
    assert len(frames) == 3
    assert max(map(len, frames)) < width
