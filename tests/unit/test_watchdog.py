"""The watchdog with a clock of its own, on signs of life that the test writes."""

import dataclasses
import json
import os
import socket

import pytest

from pipelines.config import LaunchConfig
from pipelines.launch.health.heartbeat import Heartbeat, interval_seconds, read
from pipelines.launch.health.watchdog import Watchdog
from pipelines.progress import Progress

LAUNCH = LaunchConfig(workers=2, start_timeout_seconds=40, stall_warning_seconds=16, stall_shutdown_seconds=60)


class Stage:
    def __init__(self, folder):
        self.folder = folder
        self.time = 1000.0
        self.beats = [0, 0]
        self.progress = [Progress(), Progress()]
        self.done = [False, False]
        self.dog = Watchdog(LAUNCH, folder, folder / "logs", now=lambda: self.time)

    def mark(self, rank, activity="epoch 1, step 2", **what):
        self.progress[rank] = Progress(marks=self.progress[rank].marks + 1, activity=activity, joined=True, **what)

    def live(self, seconds, ranks=(0, 1), marking=()):
        """Time passes; these ranks give signs of life, and of progress. Returns all that the watchdog said."""
        looks = []
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
                )
                path = self.folder / "heartbeats" / f"rank-{rank}.json"
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(dataclasses.asdict(heartbeat)))
            looks.append(self.dog.poll())
            if looks[-1].stalled:
                break
        return [warning for look in looks for warning in look.warnings], [failure for look in looks for failure in look.stalled]


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    for rank in (0, 1):
        made.mark(rank)
    return made


def test_ranks_that_work_are_left_in_peace(stage):
    assert stage.live(200, marking=(0, 1)) == ([], [])


def test_a_rank_without_signs_of_life_is_named_once_then_ended_and_the_waiting_one_is_not(stage):
    stage.live(5, marking=(0, 1))
    warnings, stalled = stage.live(100, ranks=(0,))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"rank 1 on {socket.gethostname()} has made no progress for 1")
    assert "(epoch 1, step 2; its process sends no heartbeats); it will be ended after 60 s" in warnings[0]
    (failure,) = stalled
    assert (failure.rank, failure.lost) == (1, True)
    assert "made no progress for launch.stall_shutdown_seconds=60 (epoch 1, step 2" in failure.error


def test_a_reader_that_does_not_deliver_is_blamed_rather_than_those_who_wait_in_the_step(stage):
    stage.mark(1, reading="train rows of tables/x")
    _, (failure,) = stage.live(100)
    assert failure.rank == 1
    assert "reading train rows of tables/x" in failure.error


def test_a_rank_at_work_of_its_own_is_blamed_rather_than_those_who_wait_for_it(stage):
    stage.mark(0, "adding up with the other ranks", waiting=True)
    stage.mark(1, "evaluating, row 7")
    _, (failure,) = stage.live(100)
    assert failure.rank == 1
    assert "evaluating, row 7" in failure.error


def test_waiting_long_for_a_rank_that_gets_on_is_no_stall(stage):
    stage.mark(0, "adding up with the other ranks", waiting=True)
    assert stage.live(200, marking=(1,)) == ([], [])


def test_when_nobody_can_be_told_apart_all_are_named(stage):
    _, stalled = stage.live(100)
    assert [failure.rank for failure in stalled] == [0, 1]


def test_a_rank_that_goes_on_may_be_warned_of_again(stage):
    assert len(stage.live(30)[0]) == 2
    stage.mark(1)
    assert len(stage.live(30)[0]) == 1


def test_a_rank_that_is_done_is_not_missed_while_another_still_works(stage):
    stage.done[1] = True
    stage.live(3, marking=(0,))
    assert stage.live(200, ranks=(0,), marking=(0,)) == ([], [])


def test_results_that_never_reach_the_driver_are_a_stall(stage):
    stage.done = [True, True]
    assert [failure.rank for failure in stage.live(100)[1]] == [0, 1]


def test_a_rank_that_does_not_join_in_time_is_named_and_one_that_was_never_started_before_all(tmp_path):
    stage = Stage(tmp_path)
    stage.progress[0] = Progress(marks=1, activity="looking for the other ranks", waiting=True)
    stage.progress[1] = Progress(marks=1, activity="loading TensorFlow")
    _, (failure,) = stage.live(60)
    assert failure.rank == 1
    assert "has not found the others within launch.start_timeout_seconds=40 (loading TensorFlow)" in failure.error
    nobody = Stage(tmp_path / "nobody")
    _, stalled = nobody.live(60, ranks=())
    assert [(failure.rank, failure.lost) for failure in stalled] == [(0, False), (1, False)]
    assert "Spark has not started it: are the task slots taken" in stalled[0].error


def test_signs_of_life_are_short_against_the_limits_and_half_a_file_is_none(tmp_path):
    assert interval_seconds(LaunchConfig(stall_warning_seconds=1)) <= 0.2
    assert interval_seconds(LaunchConfig()) == 1.0
    (tmp_path / "heartbeats").mkdir()
    (tmp_path / "heartbeats" / "rank-0.json").write_text('{"rank": 0, "ho')
    assert read(tmp_path, 0) is None
