"""The watchdog with a simulated clock, on heartbeats that the test writes."""

import dataclasses
import functools
import json
import os
import socket
import sys
import time
import types

import pytest

from pipelines.config import LaunchConfig
from pipelines.launch.health import scarcity
from pipelines.launch.health.heartbeat import Heartbeat, interval_seconds, read
from pipelines.launch.health.watchdog import Watchdog
from pipelines.progress import Progress

LAUNCH = LaunchConfig(workers=2, start_timeout_seconds=40, stall_warning_seconds=16, stall_shutdown_seconds=60)


class Simulation:
    def __init__(self, folder, launch=LAUNCH):
        self.folder = folder
        self.time = 1000.0
        self.beats = [0, 0]
        self.progress = [Progress(), Progress()]
        self.done = [False, False]
        self.watchdog = Watchdog(launch, folder, folder / "logs", now=lambda: self.time)

    def mark(self, rank, activity="epoch 1, step 2", **what):
        self.progress[rank] = Progress(marks=self.progress[rank].marks + 1, activity=activity, joined=True, **what)

    def run(self, seconds, ranks=(0, 1), marking=()):
        """Let time pass while some ranks send heartbeats, and some make progress. Returns warnings and stalled ranks."""
        reports = []
        for _ in range(seconds):
            self.time += 1
            for rank in ranks:
                if rank in marking:
                    self.mark(rank, self.progress[rank].activity)
                self.beats[rank] += 1
                heartbeat = Heartbeat(
                    rank=rank,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    beats=self.beats[rank],
                    done=self.done[rank],
                    progress=self.progress[rank],
                    sent_at=time.time(),
                )
                path = self.folder / "heartbeats" / f"rank-{rank}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(dataclasses.asdict(heartbeat)))
            reports.append(self.watchdog.poll())
            if reports[-1].stalled:
                break
        warnings = [symptom.line for report in reports for symptom in report.symptoms]
        return warnings, [failure for report in reports for failure in report.stalled]


@pytest.fixture
def simulation(tmp_path):
    simulation = Simulation(tmp_path)
    for rank in (0, 1):
        simulation.mark(rank)
    return simulation


def test_ranks_that_make_progress_cause_no_warning(simulation):
    assert simulation.run(200, marking=(0, 1)) == ([], [])


def test_a_rank_without_heartbeats_is_warned_of_once_then_ended_and_the_waiting_one_is_not(simulation):
    simulation.run(5, marking=(0, 1))
    warnings, stalled = simulation.run(100, ranks=(0,))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"rank 1 on {socket.gethostname()} has made no progress for 1")
    assert "(epoch 1, step 2; its process sends no heartbeats); it will be ended after 60 s" in warnings[0]
    (failure,) = stalled
    assert (failure.rank, failure.lost) == (1, True)
    assert "made no progress for launch.stall_shutdown_seconds=60 (epoch 1, step 2" in failure.error


def test_a_rank_without_heartbeats_is_told_sooner_than_one_that_sends_them(tmp_path):
    simulation = Simulation(tmp_path, LaunchConfig(workers=2))
    for rank in (0, 1):
        simulation.mark(rank, "summing over ranks", waiting=rank == 0)
    simulation.run(3)
    # Rank 1 sends none and rank 0 waits for it.
    assert simulation.run(14, ranks=(0,)) == ([], [])
    (warning,) = simulation.run(10, ranks=(0,))[0]
    assert "; its process sends no heartbeats); it will be ended after" in warning
    assert simulation.run(100, ranks=(0,))[0] == []
    patient = Simulation(tmp_path / "patient", LaunchConfig(workers=2))
    patient.mark(0)
    patient.mark(1)
    assert patient.run(58) == ([], [])
    assert len(patient.run(5)[0]) == 2


def test_a_rank_whose_reader_does_not_deliver_is_at_fault_rather_than_those_waiting_in_the_step(simulation):
    simulation.mark(1, reading="train rows of tables/x")
    _, (failure,) = simulation.run(100)
    assert failure.rank == 1
    assert "reading train rows of tables/x" in failure.error


def test_a_rank_busy_by_itself_is_at_fault_rather_than_those_waiting_for_it(simulation):
    simulation.mark(0, "summing over ranks", waiting=True)
    simulation.mark(1, "evaluating, row 7")
    _, (failure,) = simulation.run(100)
    assert failure.rank == 1
    assert "evaluating, row 7" in failure.error


def test_a_long_wait_for_a_rank_that_makes_progress_is_no_stall(simulation):
    simulation.mark(0, "summing over ranks", waiting=True)
    assert simulation.run(200, marking=(1,)) == ([], [])


def test_if_ranks_cannot_be_distinguished_all_are_named(simulation):
    _, stalled = simulation.run(100)
    assert [failure.rank for failure in stalled] == [0, 1]


def test_a_rank_that_recovers_may_be_warned_of_again(simulation):
    assert len(simulation.run(30)[0]) == 2
    simulation.mark(1)
    assert len(simulation.run(30)[0]) == 1


def test_a_finished_rank_is_not_missed_while_another_is_running(simulation):
    simulation.done[1] = True
    simulation.run(3, marking=(0,))
    assert simulation.run(200, ranks=(0,), marking=(0,)) == ([], [])


def test_results_that_never_reach_the_driver_are_a_stall(simulation):
    simulation.done = [True, True]
    assert [failure.rank for failure in simulation.run(100)[1]] == [0, 1]


def test_a_rank_that_does_not_join_in_time_is_named_and_first_of_all_one_that_was_never_started(tmp_path):
    simulation = Simulation(tmp_path)
    simulation.progress[0] = Progress(marks=1, activity="looking for the other ranks", waiting=True)
    simulation.progress[1] = Progress(marks=1, activity="loading TensorFlow")
    _, (failure,) = simulation.run(60)
    assert failure.rank == 1
    assert "has not found the others within launch.start_timeout_seconds=40 (loading TensorFlow)" in failure.error
    not_started = Simulation(tmp_path / "not-started")
    _, stalled = not_started.run(60, ranks=())
    assert [(failure.rank, failure.lost) for failure in stalled] == [(0, False), (1, False)]
    assert "Spark has not started it: are the task slots taken" in stalled[0].error


def test_heartbeat_intervals_are_short_compared_with_the_limits_and_a_partial_file_is_no_heartbeat(tmp_path):
    assert interval_seconds(LaunchConfig(stall_warning_seconds=1)) <= 0.2
    assert interval_seconds(LaunchConfig()) == 1.0
    (tmp_path / "heartbeats").mkdir()
    (tmp_path / "heartbeats" / "rank-0.json").write_text('{"rank": 0, "ho')
    assert read(tmp_path, 0) is None


def test_ranks_that_share_little_memory_are_warned_of_once(simulation, monkeypatch):
    used = {"memory_used": 3_800_000_000, "memory_limit": 4_000_000_000, "memory_whose": "its control group"}
    assert simulation.run(3, marking=(0, 1)) == ([], [])
    monkeypatch.setattr(sys.modules[__name__], "Heartbeat", functools.partial(Heartbeat, **used))
    warnings, stalled = simulation.run(5, marking=(0, 1))
    assert stalled == []
    (warning,) = warnings
    assert warning.startswith(
        f"rank 0 on {socket.gethostname()} has little memory left (epoch 1, step 2): 3.8 of the 4.0 GB of its"
    )
    assert "lower training.batch_size_per_worker, stream.memory_limit_mb" in warning


def test_a_disk_that_is_nearly_full_is_told_once_and_an_object_store_without_a_size_is_not(simulation, monkeypatch):
    usage = {"free": 99_000_000, "total": 0}
    monkeypatch.setattr(scarcity.shutil, "disk_usage", lambda _: types.SimpleNamespace(**usage))
    assert simulation.run(5, marking=(0, 1)) == ([], [])
    usage["total"] = 12_000_000_000
    (warning,) = simulation.run(5, marking=(0, 1))[0]
    assert warning.startswith(
        f"the disk of the run folder {simulation.folder.parents[1]} is nearly full: 99 of 12,000 MB are left"
    )
