"""The progress line on a real terminal: a pseudo-terminal with a size."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from pipelines.track.console.console import TrainingConsole
from pipelines.track.console.terminal import fitted
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
# Reads sizes from its standard input: one progress report for each line.
FOLLOWER = f"""
import sys
from pipelines.track.console.console import TrainingConsole
from pipelines.track.rundir.events import EpochEnd, Event, StepProgress, TrainingPlan
console = TrainingConsole(3, sys.argv[1])
console.show(Event(0, 0.0, {PLAN!r}))
for number, line in enumerate(sys.stdin, 1):
    values = StepProgress(epoch=1, step=number * 10, rows_per_second=12345.6, loss=0.1234, accuracy=0.9876)
    console.show(Event(0, float(number), values))
console.show(Event(0, 9.0, EpochEnd(1, {METRICS!r})))
console.warn("be warned")
console.close()
"""


def set_size(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def follow(sizes, verbosity="normal", term="xterm"):
    """What a console writes to a terminal that has another size before each progress report."""
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
            # A report of a quiet console cannot be waited for.
            if verbosity != "quiet" and term != "dumb":
                while shown.count(b"\x1b[K") < number + 1:
                    shown += os.read(master, 65536)
        process.stdin.close()
        os.close(slave)
        while True:
            try:
                shown += os.read(master, 65536)
            except OSError:
                break
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        os.close(master)
    return shown.decode()


def progress_lines(shown):
    return [line for line in re.split(r"\r\x1b\[K|\r\n", shown) if line.lstrip("[=> ").startswith(("]  epoch", "epoch 1/3  0:"))]


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_progress_line_fits_any_terminal(columns):
    shown = follow([columns] * 3)
    frames = [frame.split("\r\n")[0] for frame in shown.split("\r\x1b[K")[1:4]]
    assert all(frame for frame in frames)
    assert max(len(frame) for frame in frames) < columns
    assert all("epoch 1/3" in frame for frame in frames)
    assert ("[=" in frames[2]) == (columns >= 80)
    assert ("rows/s" in frames[2]) == (columns >= 80)


def test_a_window_that_changes_its_size_gets_lines_of_its_new_size():
    sizes = [200, 40, 80, 30]
    frames = [frame.split("\r\n")[0] for frame in follow(sizes).split("\r\x1b[K")[1:5]]
    lengths = [len(frame) for frame in frames]
    assert all(length < columns for length, columns in zip(lengths, sizes, strict=True))
    assert lengths[0] > 80
    assert lengths[2] > lengths[1] > lengths[3]


def test_lines_that_stay_are_whole_and_the_progress_line_is_taken_away():
    shown = follow([40, 40])
    lines = shown.split("\r\n")
    assert any(line.endswith("epoch 1/3  train loss 0.5000 accuracy 0.9000  9.5 s  5,400 rows/s") for line in lines)
    assert any(line.endswith("warning: be warned") for line in lines)
    assert shown.endswith("\r\x1b[K")


def test_quiet_shows_warnings_only_and_moves_no_cursor():
    assert follow([80, 80], "quiet") == "warning: be warned\r\n"


def test_a_warning_is_shown_even_where_quiet(capsys):
    console = TrainingConsole(3, "quiet")
    console.say("table t (built)")
    console.warn("table t has no manifest; the table is written again")
    assert capsys.readouterr().out == "warning: table t has no manifest; the table is written again\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines():
    shown = follow([80, 80], term="dumb")
    assert "\x1b" not in shown
    assert "epoch 1/3  train loss" in shown


def test_elsewhere_each_epoch_is_one_plain_line(capsys):
    console = TrainingConsole(3)
    console.show(Event(0, 0.0, PLAN))
    console.show(Event(0, 1.0, StepProgress(1, 10, 1.0)))
    console.show(Event(0, 9.0, EpochEnd(1, METRICS)))
    console.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("54,000 rows, 2 workers x batch 64 = global batch 128")
    assert lines[1:] == ["epoch 1/3  train loss 0.5000 accuracy 0.9000  9.5 s  5,400 rows/s"]


@pytest.mark.parametrize("width", range(1, 130))
def test_a_line_is_never_longer_than_asked(width):
    for share in (-1.0, 0.0, 0.5, 1.0, 2.0):
        assert len(fitted(["epoch 10/10", "1:00:00 left", "accuracy 0.1234", "12,345 rows/s"], share, width)) <= width
