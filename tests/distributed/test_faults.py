"""Faults in real ranks under real Spark, and how the training recovers."""

import functools
import json
import re
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from support import ranks
from support.rank_processes import processes_of_ranks

from pipelines.config import loader
from pipelines.errors import LaunchError
from pipelines.launch import restarts, resume
from pipelines.launch.health.failures import read_failures
from pipelines.launch.workers import barrier
from pipelines.launch.workers.barrier import RankError
from pipelines.track.rundir.symptom import Symptom
from pipelines.train.checkpoint import store

SETTINGS = [
    "model.name=convnet_dropout",
    "training.epochs=3",
    "training.precision=float32",
    "training.batch_size_per_worker=16",
    "checkpoint.keep=9",
    "launch.workers=2",
    "launch.threads_per_worker=1",
    # More than a first step takes on a busy machine: 5 to 18 s were measured, with both ranks compiling.
    "launch.stall_warning_seconds=20",
    "launch.stall_shutdown_seconds=35",
]
STEPS = 20
# What loses three ranks, one of which hangs, takes 160 s on a machine of two cores without other work.
pytestmark = pytest.mark.timeout(480)


@dataclass
class Messages:
    """Messages of the driver, and their times."""

    lines: list[str] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    symptoms: list[Symptom] = field(default_factory=list)

    def warn(self, line):
        self.lines.append(line)
        self.times.append(time.time())

    def symptom(self, symptom):
        self.symptoms.append(symptom)
        if not symptom.ended_ranks:
            self.warn(symptom.line)

    def restarting(self, reason):
        self.warn(reason)
        self.restarts.append(reason)

    def poll(self):
        return

    def kinds(self):
        """Kind and rank of each symptom, but for those of a machine that other tests use, or whose clock is set."""
        return [(each.kind, each.rank) for each in self.symptoms if not each.kind.startswith(("slow", "wandering", "clock"))]


def train(spark, table, folder, fork_server, faults, *settings, start=None, function=None):
    messages = Messages()
    config = loader.load(None, [*SETTINGS, *settings])
    try:
        results = restarts.train(
            spark,
            config,
            table,
            folder,
            messages,
            start=start,
            function=function or functools.partial(ranks.faulty_work, faults),
            fork_server=fork_server,
        )
    except LaunchError as error:
        return error, messages
    return results, messages


def losses(folder):
    """Training and validation loss in the last report of each epoch."""
    events = []
    for line in (folder / "spool" / "rank-0.jsonl").read_text().splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return {
        event["values"]["epoch"]: (event["values"]["metrics"]["train/loss"], event["values"]["metrics"]["validation/loss"])
        for event in events
        if event["kind"] == "epoch"
    }


def no_rank_is_left():
    deadline = time.monotonic() + 10
    while processes_of_ranks():
        assert time.monotonic() < deadline, processes_of_ranks()
        time.sleep(0.1)
    return True


@pytest.fixture(scope="module")
def undisturbed(spark, fork_server, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    results, _ = train(spark, table, folder, fork_server, {})
    return results, folder


@pytest.fixture(scope="module")
def thrice_lost(spark, table, tmp_path_factory):
    """One training that loses a rank, a Spark task, and a rank that hangs."""
    folder = tmp_path_factory.mktemp("thrice-lost")
    faults = {1: ("kill", 1, 2, 7), 2: ("kill the task", 0, 3, 5), 3: ("stop", 1, 3, 9)}
    # Without a fork server, because only then is a rank a child of its task.
    results, messages = train(spark, table, folder, "", faults, "launch.max_restarts=3")
    return results, messages, folder


def test_a_killed_rank_is_reported_with_signal_activity_and_checkpoint(thrice_lost):
    _, messages, _ = thrice_lost
    line = messages.restarts[0]
    assert line.startswith("restart 1 of 3: rank 1 on ")
    assert " failed: killed by SIGKILL; out of memory is the usual reason (" in line
    assert re.search(r"\(.+; its log: \S+rank-1\.log\); training continues from the checkpoint of epoch 1$", line)
    assert "\n" not in line


def test_a_lost_spark_task_is_reported_although_it_left_no_failure_report(thrice_lost):
    _, messages, _ = thrice_lost
    line = messages.restarts[1]
    assert line.startswith("restart 2 of 3: rank 0 on ")
    assert " failed: its Spark task was lost; the Python worker or the executor was killed" in line
    # Its activity is from its last heartbeat.
    assert re.search(r"\(.+; its log: \S+rank-0\.log\)", line)
    assert line.endswith("; training continues from the checkpoint of epoch 2")


def test_a_stopped_rank_is_named_after_the_warning_time_and_ended_after_the_limit(thrice_lost):
    _, messages, folder = thrice_lost
    stopped = "its process is stopped, as by SIGSTOP); it will be ended after 35 s"
    (index,) = (number for number, line in enumerate(messages.lines) if line.endswith(stopped))
    assert messages.lines[index].startswith("rank 1 on ")
    assert "has made no progress for" in messages.lines[index]
    line = messages.restarts[2]
    assert line.startswith("restart 3 of 3: rank 1 on ")
    assert " failed: made no progress for launch.stall_shutdown_seconds=35 (epoch 3, step " in line
    assert messages.times[index + 1] - messages.times[index] < 25
    # On record before the ranks were killed.
    recorded = {failure.rank: failure.error for failure in read_failures(folder / "attempts" / "003")}
    assert recorded[1].startswith("made no progress for launch.stall_shutdown_seconds=35")
    assert messages.kinds()[-2:] == [("stopped", 1), ("stopped", 1)]


def test_after_three_losses_weights_and_metrics_are_those_of_an_undisturbed_training(thrice_lost, undisturbed):
    (results, _, folder), (expected, undisturbed_folder) = thrice_lost, undisturbed
    assert {result.weights_sha256 for result in results} == {result.weights_sha256 for result in expected}
    assert results[0].test == expected[0].test
    assert losses(folder) == losses(undisturbed_folder)
    assert (folder / "model" / "MLmodel").exists()
    assert len(list((folder / "attempts").iterdir())) == 4
    assert no_rank_is_left()


def test_from_a_checkpoint_inside_an_epoch_statistics_and_metrics_of_all_ranks_continue(spark, fork_server, table, tmp_path):
    settings = ("model.name=convnet_batchnorm", "training.epochs=2", "checkpoint.every_steps=6")
    (expected, _), _ = train(spark, table, tmp_path / "whole", fork_server, {}, *settings)
    (result, _), messages = train(spark, table, tmp_path / "killed", fork_server, {1: ("kill", 1, 2, 15)}, *settings)
    assert messages.restarts[0].endswith("; training continues from the checkpoint of epoch 1, step 12")
    assert result.weights_sha256 == expected.weights_sha256
    assert result.test == expected.test
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_training_is_not_restarted_after_an_error_that_a_rank_raises(spark, fork_server, table, tmp_path):
    error, messages = train(spark, table, tmp_path, fork_server, {1: ("raise", 1, 2, 3)})
    assert isinstance(error, RankError)
    assert str(error).startswith("rank 1 on ")
    assert " failed: ValueError: deliberate failure (its log: " in str(error)
    assert time.time() - error.failures[0].time < 20
    assert messages.restarts == []
    assert store.newest(tmp_path).state.position == "epoch 1"
    assert no_rank_is_left()


def test_when_restarts_are_used_up_the_last_failure_is_the_headline(spark, fork_server, table, tmp_path):
    faults = {1: ("kill", 0, 1, 2), 2: ("terminate", 0, 1, 3)}
    error, messages = train(spark, table, tmp_path, fork_server, faults, "launch.max_restarts=1")
    assert messages.restarts[0].startswith("restart 1 of 1: rank 0 on ")
    assert messages.restarts[0].endswith("; training starts again: there is no checkpoint yet")
    assert str(error).startswith("rank 0 on ")
    assert " failed: received SIGTERM, as before its node is taken away (epoch 1, step 4; its log: " in str(error)
    assert str(error).endswith("launch.max_restarts=1 are used up")
    # The terminated rank has written a checkpoint.
    assert store.newest(tmp_path).state.position in ("epoch 0, step 3", "epoch 0, step 4")
    assert no_rank_is_left()


def test_a_rank_that_does_not_join_is_named_and_the_start_times_out(spark, fork_server, table, tmp_path):
    error, _ = train(
        spark, table, tmp_path, fork_server, {1: ("stop", 1, 0, 0)}, "launch.start_timeout_seconds=12", "launch.max_restarts=0"
    )
    assert str(error).startswith("rank 1 on ")
    assert " failed: has not found the others within launch.start_timeout_seconds=12 (starting; its process is stopped" in str(
        error
    )
    assert no_rank_is_left()


@pytest.mark.parametrize(
    ("action", "setting", "activity"),
    [
        ("hang in the reader", "stream.memory_limit_mb=0", "reading validation rows of "),
        ("hang in evaluation", "checkpoint.every_epochs=2", "end of epoch 2"),
    ],
)
def test_a_rank_that_hangs_is_named_with_its_activity_and_ended(spark, fork_server, table, tmp_path, action, setting, activity):
    error, messages = train(spark, table, tmp_path, fork_server, {1: (action, 1, 2, STEPS)}, setting, "launch.max_restarts=0")
    assert any(line.startswith("rank 1 on ") and f"({activity}" in line for line in messages.lines)
    assert f"rank 1 on {error.failures[0].host} failed: made no progress for launch.stall_shutdown_seconds=35 ({activity}" in str(
        error
    )
    # The stacks of its threads.
    assert "Thread 0x" in (tmp_path / "logs" / "rank-1.log").read_text()
    assert no_rank_is_left()


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_in_the_same_step(spark, fork_server, table, tmp_path):
    error, messages = train(spark, table, tmp_path, fork_server, {1: ("set weights to NaN", 1, 2, 4)})
    place = "on rank 1 alone in epoch 2, step 5 of 20, at learning rate 0.002"
    assert str(error).startswith(f"the loss is not finite {place}; look for the cause in the rows that are read there")
    assert {failure.error for failure in error.failures} == {str(error)}
    assert messages.kinds() == [("not finite", 1)]
    assert messages.restarts == []
    found = store.newest(tmp_path)
    assert found.state.position == "epoch 1"
    assert all(np.isfinite(array).all() for array in store.read_arrays(found).values())


def test_a_loss_that_is_not_finite_on_all_ranks_is_told_from_one_of_a_single_rank(spark, fork_server, table, tmp_path):
    diverging = ("model.name=mlp", "training.optimizer=sgd", "training.base_learning_rate=1e30", "training.warmup_epochs=0")
    error, messages = train(spark, table, tmp_path, fork_server, {}, *diverging)
    assert re.match(r"the loss is not finite on all ranks in epoch 1, .*; lower training\.base_learning_rate", str(error))
    assert messages.kinds() == [("not finite", None)]


def test_diverging_weights_are_detected_at_the_end_of_the_epoch(spark, fork_server, table, tmp_path):
    error, messages = train(spark, table, tmp_path, fork_server, {1: ("change weights", 1, 2, 4)})
    assert str(error).startswith("after epoch 2: weights or optimizer state of ranks [1] differ from rank 0")
    assert messages.kinds() == [("drifted", 1)]
    assert messages.restarts == []
    assert store.newest(tmp_path).state.position == "epoch 1"


def test_diverging_weights_are_told_within_seconds_in_a_long_epoch(spark, fork_server, table, tmp_path):
    error, messages = train(spark, table, tmp_path, fork_server, {}, "training.epochs=1", function=ranks.drifting_work)
    assert str(error).startswith("after epoch 1: weights or optimizer state of ranks [1] differ from rank 0")
    assert messages.kinds() == [("drifted", 1)] * 2
    (line,) = [line for line in messages.lines if "differ" in line]
    assert re.search(r"^the weights of rank 1 on \S+ differ from those of the other ranks after step (8|16); ", line)


def test_cancelled_ranks_write_a_checkpoint_from_which_the_training_ends_as_if_undisturbed(
    spark, fork_server, table, tmp_path, undisturbed
):
    config = loader.load(None, SETTINGS)
    work = functools.partial(ranks.faulty_work, {})
    launch = barrier.start(
        spark, work, (config, table, str(tmp_path)), launch=config.launch, work_dir=tmp_path, fork_server=fork_server
    )
    while store.newest(tmp_path) is None:
        assert not launch.wait(0.01)
    started = time.monotonic()
    launch.cancel()
    assert launch.done
    assert time.monotonic() - started < 10
    assert no_rank_is_left()
    found = store.newest(tmp_path)
    assert (found.state.epoch, found.state.step) > (1, 0)
    results, _ = train(spark, table, tmp_path, fork_server, {}, start=found)
    assert results[0].weights_sha256 == undisturbed[0][0].weights_sha256


def test_another_number_of_workers_resumes_and_reports_what_changes(spark, fork_server, table, tmp_path, undisturbed):
    first = store.verify(store.available(undisturbed[1])[-1])
    assert first.state.position == "epoch 1"
    changed = resume.changes(first.state, loader.load(None, [*SETTINGS, "launch.workers=1"]), rows=640)
    assert changed[0] == "resume: changed: launch.workers 2 -> 1"
    assert "global batch 32 -> 16, steps an epoch 20 -> 40" in changed[1]
    (result,), _ = train(spark, table, tmp_path, fork_server, {}, "launch.workers=1", start=first)
    assert result.epochs == 3
    assert result.test.accuracy > 0.9
    stored = store.newest(tmp_path)
    assert stored.state.steps_per_epoch == 40
    # Updates of the optimizer: one epoch of the first training, and two of this one. The schedule counts all three alike.
    assert int(store.read_arrays(stored)["optimizer/0000"]) == 20 + 2 * 40
    assert [round(metrics["learning_rate"], 6) for metrics in stored.state.history] == [0.002, 0.001, 0.001]
