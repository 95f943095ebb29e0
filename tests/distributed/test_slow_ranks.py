"""Real ranks that are slowed and stopped in several ways, and what the driver says of each."""

import contextlib
import functools
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import control_groups, ranks
from support.rank_processes import wait_until_no_rank_is_left
from test_faults import SETTINGS, Messages

from pipelines.config import loader
from pipelines.launch import restarts
from pipelines.launch.health import heartbeat, watchdog
from pipelines.train.checkpoint import store

pytestmark = pytest.mark.timeout(300)
# `./convoy bench symptoms` takes those of a training.
WINDOW_SECONDS = float(os.environ.get("CONVOY_SYMPTOM_WINDOW", "3"))


class Training:
    """A training without end that runs in the background."""

    def __init__(self, folder, messages):
        self.folder, self.messages = folder, messages
        self.lines, self.seconds = {}, {}

    def await_symptom(self, disturbance, kind, rank, sign="", seconds=60):
        """Take down the line of a symptom, which contains a sign, and how long it took."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            for symptom in list(self.messages.symptoms):
                if (symptom.kind, symptom.rank) == (kind, rank) and sign in symptom.line:
                    self.lines[disturbance], self.seconds[disturbance] = symptom.line, time.monotonic() - began
                    return
            time.sleep(0.05)
        raise AssertionError(f"no {kind!r} of rank {rank} in {self.messages.symptoms}")

    def await_heartbeat(self, rank, seconds=60):
        """Wait until a rank that was silent is not."""
        beats = heartbeat.read(self.folder / "attempts" / "001", rank).beats
        end = time.monotonic() + seconds
        while heartbeat.read(self.folder / "attempts" / "001", rank).beats == beats:
            assert time.monotonic() < end
            time.sleep(0.05)

    @contextlib.contextmanager
    def asking(self, name):
        """While the block runs, a rank is disturbed (`ranks.disturbed_work`)."""
        (self.folder / name).touch()
        try:
            yield
        finally:
            (self.folder / name).unlink()

    def pid(self, rank):
        return heartbeat.read(self.folder / "attempts" / "001", rank).pid


@dataclass
class Disturbed:
    lines: dict[str, str]
    """What the driver said of each disturbance."""
    seconds: dict[str, float]
    """Until it did."""
    messages: Messages
    checkpoints: list[str]
    """What the second attempt would continue from, by rank."""
    folder: Path
    noticed_at: float
    """When the node of rank 1 received its notice, in seconds since the Unix epoch."""


@contextlib.contextmanager
def held(pid, share, each=0.0, first=True):
    """Hold a process by SIGSTOP for a share of the time: always, or for `each` of two times in turn, from the first on or not."""
    end, began = threading.Event(), time.monotonic()

    def hold():
        while not end.wait(0.05 * (1 - share)):
            if each and (time.monotonic() - began) // each % 2 == first:
                continue
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.05 * share)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextlib.contextmanager
def crowded(pid):
    """Let all threads of a process share one processor with thirty other programs: more than other tests that run meanwhile."""
    allowed = os.sched_getaffinity(0)
    only = {min(allowed)}
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    # They end with the test, even if it is killed.
    program = f"while kill -0 {os.getpid()} 2>/dev/null; do :; done"
    programs = [subprocess.Popen(["sh", "-c", program]) for _ in range(30)]
    try:
        for each in [*threads, *(running.pid for running in programs)]:
            # Threads that read come and go.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(each, only)
        yield
    finally:
        for running in programs:
            running.kill()
            running.wait()
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, allowed)


@pytest.fixture(scope="module")
def disturbed(spark, fork_server, table, tmp_path_factory):
    """A training that was disturbed in one way after the other."""
    folder, messages = tmp_path_factory.mktemp("symptoms"), Messages()
    training = Training(folder, messages)
    settings = [
        *SETTINGS,
        "training.epochs=100000",
        # Streamed, so that it can starve.
        "stream.memory_limit_mb=0",
        "checkpoint.keep=1",
        "launch.stall_warning_seconds=6",
        "launch.stall_shutdown_seconds=60",
    ]
    function = functools.partial(ranks.disturbed_work, str(folder))
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setattr(watchdog, "SymptomFinder", functools.partial(watchdog.SymptomFinder, window_seconds=WINDOW_SECONDS))
        config = loader.load(None, settings)
        result = pool.submit(restarts.train, spark, config, table, folder, messages, function=function, fork_server=fork_server)
        try:
            while training_steps(folder) < 100:
                assert not result.done(), result.result()
                time.sleep(0.1)
            # First: one rank that is slow after the other is told in the same way.
            with held(training.pid(0), share=0.8, each=1.5), held(training.pid(1), share=0.8, each=1.5, first=False):
                training.await_symptom("in turn", "wandering", None)
            with crowded(training.pid(1)):
                training.await_symptom("processor", "slow processor", 1)
            with held(training.pid(0), share=0.8):
                training.await_symptom("held", "slow rank", 0)
            with training.asking("starve-0"):
                training.await_symptom("starved", "starved", 0)
            with training.asking("lock-1"):
                training.await_symptom("locked", "locked", 1)
            training.await_heartbeat(1)
            os.kill(training.pid(0), signal.SIGSTOP)
            try:
                training.await_symptom("stopped", "stopped", 0)
            finally:
                os.kill(training.pid(0), signal.SIGCONT)
            training.await_heartbeat(0)
            with training.asking("clock-1"):
                # The machine's own clock may have been set.
                training.await_symptom("clock", "clock", 1, " by 100 s")
            if not control_groups.why_not():
                with control_groups.memory_limit(training.pid(1), 1_000_000_000), training.asking("memory-1"):
                    training.await_symptom("memory", "memory", 1)
            with training.asking("disk-0"):
                training.await_symptom("disk", "slow disk", 0)
        finally:
            noticed_at = time.time()
            # As a node does that is taken away.
            os.kill(training.pid(1), signal.SIGTERM)
        return Disturbed(training.lines, training.seconds, messages, result.result(timeout=60), folder, noticed_at)


def training_steps(folder):
    """Steps that both ranks have made."""
    beats = [heartbeat.read(folder / "attempts" / "001", rank) for rank in (0, 1)]
    return min(beat.progress.step_times.steps if beat is not None else 0 for beat in beats)


@pytest.mark.parametrize(
    ("disturbance", "where", "why"),
    [
        ("processor", "rank 1 on ", "its threads wait for a processor"),
        ("held", "rank 0 on ", "waits neither for rows nor for a processor"),
        ("in turn", "the ranks are slow in turn: ", "of a step"),
        ("starved", "rank 0 on ", "its reader waits for "),
        ("stopped", "rank 0 on ", "its process is stopped, as by SIGSTOP"),
        ("clock", "the clock of rank 1 on ", "has jumped forward by 100 s"),
        ("memory", "rank 1 on ", "of the 1.0 GB of its control group are in use; lower training.batch_size_per_worker"),
        ("disk", "rank 0 on ", " s or more to write a small file into the run folder"),
        ("locked", "rank 1 on ", "its process computes, but a thread holds Python's lock"),
    ],
)
def test_what_slows_a_rank_is_told_with_rank_and_reason(disturbed, disturbance, where, why, record_property):
    if disturbance == "memory" and control_groups.why_not():
        pytest.skip(control_groups.why_not())
    line = disturbed.lines[disturbance]
    record_property(disturbance, disturbed.seconds[disturbance])
    assert line.startswith(where)
    assert why in line


def test_a_rank_whose_python_is_locked_has_its_stacks_in_its_log(disturbed):
    assert "in locked" in (disturbed.folder / "logs" / "rank-1.log").read_text()


def test_before_a_node_is_taken_away_rank_0_writes_a_checkpoint_from_which_the_others_continue(disturbed):
    (restart,) = disturbed.messages.restarts
    assert restart.startswith("restart 1 of 2: rank 1 on ")
    assert " failed: received SIGTERM, as before its node is taken away (" in restart
    newest = store.newest(disturbed.folder)
    assert newest.state.position in restart
    assert newest.path.stat().st_mtime > disturbed.noticed_at
    assert disturbed.checkpoints == [str(newest.path)] * 2
    assert [(symptom.kind, symptom.rank) for symptom in disturbed.messages.symptoms][-1] == ("preempted", 1)


def test_no_rank_is_left(disturbed):
    wait_until_no_rank_is_left()
