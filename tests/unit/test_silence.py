"""A process that sends no heartbeats, and what its supervisor sees of it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.launch.health import heartbeat, silence
from pipelines.launch.health.heartbeat import Heartbeat
from pipelines.progress import Progress

COMPUTING = "while True: pass"
SLEEPING = "import time; time.sleep(60)"


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(code):
        process = subprocess.Popen([sys.executable, "-c", code])
        processes.append(process)
        beat(tmp_path, process.pid, 1)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def beat(folder, pid, beats):
    path = folder / "heartbeats" / "rank-3.json"
    path.parent.mkdir(exist_ok=True)
    last = Heartbeat(rank=3, host="node", pid=pid, beats=beats, done=False, progress=Progress())
    path.write_text(json.dumps(dataclasses.asdict(last)))


def looked_at(folder, process, seconds=3.5):
    """The last heartbeat, the state that was seen after it, and the signals that were sent."""
    signals = []
    watch = silence.SilenceWatch(folder, 3, process.pid, 0.2, signals.append)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        watch.look()
        time.sleep(0.1)
    last = heartbeat.read(folder, 3)
    return last, silence.state(folder, last), signals


def test_a_process_that_computes_holds_its_lock_and_is_asked_for_its_stacks_once(tmp_path, start):
    last, state, signals = looked_at(tmp_path, start(COMPUTING), 5)
    assert (state, signals) == ("computing", [signal.SIGUSR1])
    assert silence.state(tmp_path, dataclasses.replace(last, beats=last.beats + 1)) is None


def test_a_process_that_sleeps_is_told_from_one_that_computes(tmp_path, start):
    assert looked_at(tmp_path, start(SLEEPING))[1:] == ("sleeping", [signal.SIGUSR1])


def test_a_stopped_process_is_not_signalled(tmp_path, start):
    process = start(SLEEPING)
    os.kill(process.pid, signal.SIGSTOP)
    assert looked_at(tmp_path, process)[1:] == ("stopped", [])


def test_a_process_that_sends_heartbeats_is_not_looked_at(tmp_path, start):
    process = start(COMPUTING)
    signals = []
    watch = silence.SilenceWatch(tmp_path, 3, process.pid, 0.2, signals.append)
    for beats in range(30):
        beat(tmp_path, process.pid, beats)
        watch.look()
        time.sleep(0.1)
    assert (silence.state(tmp_path, heartbeat.read(tmp_path, 3)), signals) == (None, [])
