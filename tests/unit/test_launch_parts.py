import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import pyspark
import pytest
from pyspark.sql import SparkSession
from support import ranks

from pipelines.config import LaunchConfig
from pipelines.errors import ConfigError, DataError, LaunchError, UserCodeError
from pipelines.launch import session
from pipelines.launch.health import failures
from pipelines.launch.rendezvous.server import RankPlacement, slot_info
from pipelines.launch.slots import threads_per_worker
from pipelines.launch.workers import commands, scratch, spawn
from pipelines.launch.workers.barrier import RankError
from pipelines.launch.workers.environment import gpu_environment, horovod_environment
from pipelines.launch.workers.supervisor import Assignment, run_locally
from pipelines.system import local_socket, surroundings
from pipelines.system.tensorflow_env import tensorflow_environment
from pipelines.track.rundir import layout
from pipelines.track.rundir.events import EpochEnd, FinalScore, FirstStep, SpoolReader, SpoolWriter, StepProgress
from pipelines.train.precision import bfloat16_instructions, resolve


def test_ranks_on_two_hosts_get_local_and_cross_ranks():
    hosts = ["a", "b", "a", "b", "a"]
    slots = [slot_info(rank, hosts) for rank in range(5)]
    assert [(slot.local_rank, slot.local_size) for slot in slots] == [(0, 3), (0, 2), (1, 3), (1, 2), (2, 3)]
    assert [(slot.cross_rank, slot.cross_size) for slot in slots] == [(0, 2), (1, 2), (0, 2), (1, 2), (0, 1)]


def test_workers_of_a_node_share_its_cores_with_at_least_one_thread_each():
    assert threads_per_worker(0, 8, 2) == 4
    assert threads_per_worker(0, 2, 4) == 1
    assert threads_per_worker(3, 8, 2) == 3


def test_the_cycle_time_is_left_to_horovod_unless_it_is_set():
    placement = RankPlacement(slot_info(0, ["a", "a"]), "127.0.0.1:1", "lo", ["a", "a"])
    environments = [horovod_environment(placement, LaunchConfig(cycle_milliseconds=value)) for value in (0, 2.5, 10)]
    assert [variables.get("HOROVOD_CYCLE_TIME") for variables in environments] == [None, "2.5", "10"]


def test_the_cause_comes_before_its_effects_even_if_it_is_reported_later(tmp_path):
    effect = failures.Failure(rank=0, host="a", time=1.0, error="HorovodInternalError: gone", traceback="", log_path="l0")
    cause = failures.failure_from_exception(ValueError("real"), "Traceback", rank=1, host="b", log_path="l1")
    failures.write_failure(tmp_path, effect)
    failures.write_failure(tmp_path, cause)
    first, second = failures.read_failures(tmp_path)
    assert (first.rank, second.rank) == (1, 0)
    assert failures.headline(first) == "rank 1 on b failed: ValueError: real (its log: l1)"


def test_a_notice_comes_before_the_ranks_that_stop_because_of_it_whatever_their_clocks_say():
    stopped = failures.failure_from_exit_code(-15, rank=0, host="a", log_path="l0")
    notice = failures.preempted("SIGTERM", rank=1, host="b", log_path="l1", last_activity="epoch 2, step 3")
    ordered = failures.causes_first([stopped, dataclasses.replace(notice, time=stopped.time + 5)])
    assert [failure.rank for failure in ordered] == [1, 0]
    told = failures.symptom(ordered[0])
    assert (told.kind, told.rank, told.ended_ranks) == ("preempted", 1, True)


def test_a_stop_does_not_replace_the_order_to_kill(tmp_path):
    commands.prepare(tmp_path)
    assert commands.read(tmp_path) == ""
    for command in (commands.STOP, commands.KILL, commands.STOP):
        commands.send(tmp_path, command)
    assert commands.read(tmp_path) == commands.KILL


def test_the_first_report_of_a_rank_remains(tmp_path):
    stalled = failures.failure_from_exit_code(1, rank=1, host="b", log_path="l1")
    killed = failures.failure_from_exit_code(-9, rank=1, host="b", log_path="l1")
    for report in (stalled, killed):
        failures.write_failure(tmp_path, report)
    assert [failure.error for failure in failures.read_failures(tmp_path)] == ["the process ended with exit code 1"]


def test_the_lost_task_is_the_one_that_spark_names():
    # Spark 3.5.9's message after a host was cut off.
    message = (
        "Job aborted due to stage failure: Could not recover from a failed barrier ResultStage. Most recent failure reason: "
        "Stage failed because barrier task ResultTask(4, 2) finished unsuccessfully.\nExecutorLostFailure (executor 1 exited "
        "caused by one of the running tasks) Reason: worker lost: Not receiving heartbeat for 12 seconds"
    )
    assert failures.failed_task(message) == 2
    assert failures.failed_task("something else") is None


def test_a_users_error_is_its_own_headline():
    report = failures.failure_from_exception(DataError("f.txt:3: bad"), "Traceback", rank=0, host="a", log_path="l")
    assert failures.headline(report) == "f.txt:3: bad"


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("no such layer"), 2), (DataError("bad row"), 1), (UserCodeError("line 3"), 1), (ValueError(), 1)],
)
def test_the_error_of_a_rank_ends_the_job_with_the_code_that_it_has_on_the_driver(error, code):
    report = failures.failure_from_exception(error, "Traceback", rank=1, host="a", log_path="l")
    sent = failures.Failure.from_json(report.to_json())
    assert RankError((sent, failures.failure_from_exit_code(-9, rank=0, host="a", log_path="l"))).exit_code == code


def test_a_killed_process_is_reported_with_its_signal():
    report = failures.failure_from_exit_code(-9, rank=1, host="a", log_path="l")
    assert "killed by SIGKILL" in report.error
    assert "memory" in report.error
    assert time.time() - report.time < 5


def test_the_spool_delivers_each_event_once_and_waits_for_whole_lines(tmp_path):
    writer, reader = SpoolWriter(tmp_path, 0), SpoolReader(tmp_path)
    writer.write(EpochEnd(1, {"train/loss": 0.5}))
    assert [event.values for event in reader.new_events()] == [EpochEnd(1, {"train/loss": 0.5})]
    with (tmp_path / "rank-0.jsonl").open("a") as file:
        file.write('{"rank": 0, "kind": "te')
        file.flush()
        assert list(reader.new_events()) == []
        file.write('st", "time": 1.0, "values": {"loss": 0.5, "metrics": {"accuracy": 0.9}, "rows": 7}}\n')
    assert [event.values for event in reader.new_events()] == [FinalScore(0.5, {"accuracy": 0.9}, 7)]


def test_the_spool_is_plain_json_and_events_of_other_versions_are_skipped(tmp_path):
    writer = SpoolWriter(tmp_path, 3)
    for values in (FirstStep(), StepProgress(2, 40, 5400.0, {"loss": 0.5}), EpochEnd(2, {"train/loss": 0.25}, 1.5)):
        writer.write(values)
    writer.close()
    file = tmp_path / "rank-3.jsonl"
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(list(event) == ["rank", "kind", "time", "values", "crc32"] and event["rank"] == 3 for event in written)
    assert [(event["kind"], event["values"]) for event in written] == [
        ("first_step", {}),
        ("progress", {"epoch": 2, "step": 40, "rows_per_second": 5400.0, "metrics": {"loss": 0.5}}),
        ("epoch", {"epoch": 2, "metrics": {"train/loss": 0.25}, "validation_seconds": 1.5}),
    ]
    with file.open("a") as more:
        for kind, values in (("warning", {}), ("epoch", {"metrics": {}}), ("stopped", {"epoch": 1, "step": 2, "new": 3})):
            more.write(json.dumps({"rank": 3, "kind": kind, "time": 1.0, "values": values}) + "\n")
    assert [event.kind for event in SpoolReader(tmp_path).new_events()] == ["first_step", "progress", "epoch", "stopped"]


def test_a_spool_that_another_with_a_shorter_past_has_replaced_is_read_again_and_nothing_twice(tmp_path):
    """As when a supervisor is killed with its last second, and the next one begins with an older copy."""
    path, reader = tmp_path / "rank-0.jsonl", SpoolReader(tmp_path)
    lines = [json.dumps({"rank": 0, "kind": "saved", "time": time, "values": {}}) + "\n" for time in range(6)]
    path.write_text("".join(lines[:3]))
    assert [event.time for event in reader.new_events()] == [0, 1, 2]
    path.write_text("".join(lines[:1] + lines[3:5]))
    assert [event.time for event in reader.new_events()] == [3, 4]
    path.write_text("".join(lines[:1] + lines[3:]))
    assert [event.time for event in reader.new_events()] == [5]


def test_bfloat16_is_chosen_only_if_the_processor_supports_it(tmp_path):
    with_it, without = tmp_path / "with", tmp_path / "without"
    with_it.write_text("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n")
    without.write_text("processor : 0\nflags\t\t: fpu avx2\n")
    assert bfloat16_instructions(with_it) == {"avx512_bf16"}
    assert bfloat16_instructions(without) == set()
    assert bfloat16_instructions(tmp_path / "missing") == set()
    assert resolve("auto") == ("bfloat16" if bfloat16_instructions() else "float32")
    assert resolve("float32") == "float32"


def test_a_rank_sees_the_gpu_that_spark_assigned_and_no_other():
    assert gpu_environment({"gpu": ["3"]}, "eth1") == {"CUDA_VISIBLE_DEVICES": "3", "NCCL_SOCKET_IFNAME": "eth1"}
    assert gpu_environment({}, "eth1") == {}


def test_a_gpu_takes_precedence_over_the_processor_for_the_precision():
    assert [resolve("auto", gpu) for gpu in ((7, 5), (8, 0), (9, 0))] == ["float32", "bfloat16", "bfloat16"]
    assert resolve("float32", (9, 0)) == "float32"


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform != "linux", reason="there is no fork server elsewhere")
def test_a_fork_server_imports_late_modules_while_no_rank_is_requested(tmp_path):
    seen = tmp_path / "seen"
    (tmp_path / "needed_late.py").write_text(f"open({str(seen)!r}, 'w').close()")
    listening = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(tmp_path / 's')!r}); s.listen()"
    code = f"{listening}; from pipelines.launch.workers import forkserver; forkserver.serve(s, ['needed_late'])"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    server = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    try:
        while not seen.exists():
            assert server.poll() is None
            time.sleep(0.05)
    finally:
        server.kill()
        server.wait()


# Forks as a system does that has no process left for the first two.
_SERVE = """
import errno, os, socket, sys
from pipelines.launch.workers import forkserver
from pipelines.system import local_socket, surroundings
fork, failures = os.fork, [errno.EAGAIN, errno.ENOMEM]
def fork_at_last():
    if failures:
        number = failures.pop(0)
        raise OSError(number, os.strerror(number))
    return fork()
os.fork = fork_at_last
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(local_socket.address(sys.argv[1]))
listener.listen()
print("ready", flush=True)
forkserver.serve(listener)
"""


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform != "linux", reason="there is no fork server elsewhere")
def test_a_fork_server_survives_a_fork_that_fails_and_the_log_of_the_rank_says_so(tmp_path, monkeypatch):
    name = local_socket.new_name()
    command = [sys.executable, "-c", _SERVE, name]
    variables, _ = surroundings.repaired(spawn.DEFAULT_VARIABLES | dict(os.environ) | tensorflow_environment(os.environ))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as server:
        assert server.stdout.readline() == "ready\n"
        parents, server_prefix = [], sys.prefix
        for prefix in (*[sys.prefix] * 3, "/another/python"):
            monkeypatch.setattr(sys, "prefix", prefix)
            assignment = Assignment(
                payload=cloudpickle.dumps((os.getppid, ())),
                launch=LaunchConfig(),
                work_dir=str(tmp_path),
                attempt_dir=str(layout.new_attempt(tmp_path)),
                fork_server=name,
            )
            (tmp_path / "logs").mkdir(exist_ok=True)
            with run_locally(assignment) as (rank,):
                parents.append(cloudpickle.loads(rank.result()))
        server.kill()
    assert parents == [os.getpid(), os.getpid(), server.pid, os.getpid()]
    log = (tmp_path / "logs/rank-0.log").read_text().splitlines()
    told = [line for line in log if line.startswith("rank 0 is started as a new process, not forked: ")]
    assert [line.partition("not forked: ")[2] for line in told] == [
        f"[Errno {errno.EAGAIN}] Resource temporarily unavailable",
        f"[Errno {errno.ENOMEM}] Cannot allocate memory",
        f"the fork server has another Python ({server_prefix})",
    ]


@pytest.mark.timeout(60)
def test_a_rank_hears_that_it_is_to_stop_although_its_main_thread_is_outside_python(tmp_path):
    (tmp_path / "logs").mkdir()
    attempt = layout.new_attempt(tmp_path)
    payload = cloudpickle.dumps((ranks.hear_a_stop_while_busy, (str(tmp_path),)))
    with run_locally(Assignment(payload=payload, launch=LaunchConfig(), work_dir=str(tmp_path), attempt_dir=str(attempt))):
        while not (tmp_path / "busy").exists():
            time.sleep(0.05)
        commands.send(attempt, commands.STOP)
    (failure,) = failures.read_failures(attempt)
    assert failure.error == "the process ended with exit code 7"


def test_a_rank_that_cannot_be_started_is_not_blamed_on_its_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", fail)
    (tmp_path / "logs").mkdir()
    attempt = layout.new_attempt(tmp_path)
    assignment = Assignment(payload=b"", launch=LaunchConfig(), work_dir=str(tmp_path), attempt_dir=str(attempt))
    with run_locally(assignment) as (rank,):
        rank.exception()
    (failure,) = failures.read_failures(attempt)
    assert failures.headline(failure) == (
        f"rank 0 on {socket.gethostname()}: its process could not be started (Resource temporarily unavailable); raise the "
        "limits of processes and open files (ulimit -u, ulimit -n, or those of the container), or free memory"
    )


def test_temporary_folders_of_ranks_are_private_and_removed_with_the_last_rank(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = scratch.make(tmp_path / "run", 0, "001"), scratch.make(tmp_path / "run", 1, "001")
    assert first.parent.stat().st_mode & 0o777 == 0o700
    (first / "generated.py").write_text("")
    scratch.remove(tmp_path / "run", 0, "001")
    assert not first.exists()
    assert second.exists()
    scratch.remove(tmp_path / "run", 1, "001")
    assert list(tmp_path.iterdir()) == []


def test_a_supervisor_that_ends_late_leaves_the_folder_of_the_next_attempt_which_removes_those_of_killed_ones(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = ((1, "001"), (1, "002"), (1, "003"), (11, "001"))
    folders = [scratch.make(tmp_path / "run", rank, attempt) for rank, attempt in made]
    scratch.remove(tmp_path / "run", 1, "002")
    assert [folder.exists() for folder in folders] == [False, False, True, True]


@pytest.mark.timeout(60)
def test_ranks_that_begin_while_others_end_get_their_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def come_and_go(rank):
        for _ in range(1000):
            assert scratch.make(tmp_path / "run", rank, "001").is_dir()
            scratch.remove(tmp_path / "run", rank, "001")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(come_and_go, range(3)))
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_is_a_link_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = scratch.make(tmp_path / "run", 0, "001").parent
    scratch.remove(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        scratch.make(tmp_path / "run", 0, "001")


def test_a_spark_that_brings_no_server_of_spark_connect_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("SPARK_REMOTE", "local[2]")
    monkeypatch.delenv("SPARK_HOME", raising=False)
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setattr(pyspark, "__version__", "3.5.2")
    with pytest.raises(LaunchError) as refusal, session.open_session("never"):
        pass
    assert str(refusal.value) == (
        "Spark cannot start: SPARK_REMOTE=local[2], and Spark 3.5.2 brings no server of Spark Connect; unset SPARK_REMOTE, or "
        "name a server that runs (sc://HOST:15002)"
    )


@pytest.mark.parametrize("start", [lambda: session.open_session("never").__enter__(), session.is_local])
def test_the_spark_of_another_version_in_spark_home_is_refused_in_one_line(tmp_path, monkeypatch, start):
    for folder in ("jars", "bin"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    with pytest.raises(
        LaunchError, match=rf"^Spark cannot start: SPARK_HOME={tmp_path} has no Spark \(bin/spark-submit\); unset "
    ):
        start()
    (tmp_path / "jars/spark-core_2.12-3.1.2.jar").touch()
    (tmp_path / "bin/spark-submit").touch()
    with pytest.raises(LaunchError, match=rf"^Spark cannot start: SPARK_HOME={tmp_path} has Spark 3\.1\.2, this Python has "):
        start()
