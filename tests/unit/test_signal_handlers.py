"""Signals that arrive while another is being handled: the end of a terminal or a JVM sends several at once."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(60)
# Signals from another thread, and more at each function call of their handler.
SIGNALS = """
import os, signal, sys, threading, time
nested = 0

def handler_code():
    return getattr(signal.getsignal(signal.SIGHUP), "__code__", None)

def another(frame, event, argument):
    global nested
    code = handler_code()
    while frame and frame.f_code is not code:
        frame = frame.f_back
    if frame and event in ("call", "c_return") and nested < 50:
        nested += 1
        signal.raise_signal(signal.SIGHUP)

def send():
    while not nested:
        if handler_code():
            os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.1)

sys.setprofile(another)
threading.Thread(target=send, daemon=True).start()
"""
PREPARATION = """
import pipelines.launch.workers.supervisor
from pipelines.launch.workers.rank import RankDetails

def details(folder):
    return RankDetails(
        rank=0, host="", work_dir="", attempt_dir=folder, staging_dir="", log_path="", log_level="WARNING", heartbeat_seconds=1.0
    )
"""
SUPERVISOR = """
import subprocess, tempfile
from pipelines.launch.workers import supervisor

with tempfile.TemporaryDirectory() as folder:
    rank = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 3; exit 7"])
    code = supervisor._wait(rank, details(folder))
sys.exit(code if nested else 1)
"""
RANK = """
from pipelines import progress
from pipelines.launch.workers import rank

rank._handle_stop_signals(details("/nowhere"))
deadline = time.monotonic() + 3
while time.monotonic() < deadline and not (nested and progress.stop_requested()):
    time.sleep(0.01)
sys.exit(7 if nested and progress.stop_requested() else 1)
"""


@pytest.mark.parametrize("program", [SUPERVISOR, RANK], ids=["supervisor", "rank"])
def test_signals_during_the_handling_of_a_signal_do_not_block_a_process(program):
    assert subprocess.run([sys.executable, "-c", PREPARATION + SIGNALS + program], timeout=20).returncode == 7
