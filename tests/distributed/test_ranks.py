"""Any function on N ranks, on Spark's workers and on the driver."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import ranks
from support.rank_processes import wait_until_no_rank_is_left

from pipelines.config import LaunchConfig
from pipelines.errors import ConfigError, LaunchError
from pipelines.launch.ranks import run
from pipelines.launch.workers import spawn
from pipelines.launch.workers.barrier import RankError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def launch(tmp_path):
    return LaunchConfig(runs_uri=str(tmp_path))


@pytest.mark.parametrize("np", [2, -2], ids=["on Spark", "on the driver"])
def test_ranks_reduce_together_and_values_are_returned_in_rank_order(spark, launch, np):
    secret = "held"

    def allreduce_sum(base, *, factor):
        # As if defined in a notebook: pickled by value, with its closure.
        import horovod.tensorflow as hvd
        import tensorflow as tf

        hvd.init()
        total = hvd.allreduce(tf.constant(float(base + hvd.rank())), op=hvd.Sum)
        return hvd.rank(), hvd.size(), hvd.local_rank(), factor * float(total), secret

    results = run(allreduce_sum, np, (10,), {"factor": 2}, spark=spark, launch=launch)
    assert results == [(0, 2, 0, 42.0, "held"), (1, 2, 1, 42.0, "held")]


def test_a_rank_that_raises_on_the_driver_ends_all_ranks_and_is_named_with_its_traceback(launch):
    with pytest.raises(RankError, match=r"^rank 1 on \S+ failed: ValueError: deliberate failure \(its log: ") as caught:
        run(ranks.fail_on_rank_1, -2, launch=launch)
    assert "in fail_on_rank_1" in caught.value.details
    wait_until_no_rank_is_left()


def test_a_function_on_the_driver_needs_no_spark_and_gets_no_credential(launch, monkeypatch):
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-planted-token")
    (variables,) = run(lambda: dict(os.environ), -1, launch=launch)
    assert "dapi-planted-token" not in str(variables)
    assert variables["HOROVOD_SIZE"] == "1"


def test_a_token_in_an_executors_environment_reaches_no_rank(spark, launch, monkeypatch):
    # As set by a cluster's `spark_env_vars` or by spark.executorEnv.
    monkeypatch.setitem(spark.sparkContext.environment, "DATABRICKS_TOKEN", "dapi-planted-token")
    has_token = spark.sparkContext.parallelize([0], 1).map(lambda _: os.environ.get("DATABRICKS_TOKEN")).collect()
    assert has_token == ["dapi-planted-token"]
    (variables,) = run(lambda: dict(os.environ), 1, spark=spark, launch=launch)
    assert "dapi-planted-token" not in str(variables)


def test_more_ranks_than_slots_and_zero_ranks_are_rejected(spark, launch):
    with pytest.raises(LaunchError, match=r"only 2 task slots are available"):
        run(ranks.fail_on_rank_1, 3, spark=spark, launch=launch)
    with pytest.raises(ConfigError, match=r"^np=0: must be positive"):
        run(ranks.fail_on_rank_1, 0, launch=launch)


@pytest.fixture
def another_state(tmp_path, monkeypatch):
    """This process and its first thread, otherwise than when its fork server was started."""
    spawn.persistent_fork_server()
    limit, mask, cpus = resource.getrlimit(resource.RLIMIT_NOFILE), os.umask(0o027), os.sched_getaffinity(0)
    (tmp_path / "another folder").mkdir()
    monkeypatch.chdir(tmp_path / "another folder")
    monkeypatch.setenv("SET_LATER", "1")
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, limit[1]))
    os.sched_setaffinity(0, {max(cpus)})
    handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGWINCH])
    signal.signal(signal.SIGUSR2, handler)
    os.sched_setaffinity(0, cpus)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    os.umask(mask)


def test_a_forked_rank_has_what_the_caller_has_now_as_a_new_process_does(launch, another_state, tmp_path, monkeypatch):
    (forked,) = run(ranks.description, -1, launch=launch)
    monkeypatch.setattr(spawn, "persistent_fork_server", lambda: "")
    (new,) = run(ranks.description, -1, launch=launch)
    assert (forked.pop("tensorflow imported"), new.pop("tensorflow imported")) == (True, False)
    # Horovod keeps C++'s random device open, which is an instruction on Intel's CPUs and this file on AMD's.
    forked["open files"] = [file for file in forked["open files"] if file != "/dev/urandom"]
    assert forked == new
    assert forked["directory"] == str(tmp_path / "another folder")
    assert (forked["state"]["Umask"], forked["limits"]["RLIMIT_NOFILE"][0]) == ("0027", 300)
    assert forked["environment"]["SET_LATER"] == "1"
    assert forked["ignored"] >> (signal.SIGUSR2 - 1) & 1
    assert int(forked["state"]["SigBlk"], 16) >> (signal.SIGWINCH - 1) & 1
    assert "," not in forked["state"]["Cpus_allowed_list"]


def test_forked_ranks_draw_different_random_numbers_in_every_call(launch):
    drawn = [*run(ranks.random_numbers, -2, launch=launch), *run(ranks.random_numbers, -2, launch=launch)]
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 4


def test_a_variable_that_is_read_at_import_holds_for_ranks_although_it_was_set_after_the_first_call(launch, monkeypatch):
    spawn.persistent_fork_server()
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("TF_SET_LATER", "1")
    (hashed,) = run(lambda: hash("a text"), -1, launch=launch)
    expected = subprocess.run([sys.executable, "-c", "print(hash('a text'))"], capture_output=True, text=True, check=True)
    assert hashed == int(expected.stdout)
    (log,) = Path(launch.runs_uri).glob("*/logs/rank-0.log")
    reason = "changed since the fork server was started: PYTHONHASHSEED, TF_SET_LATER"
    assert f"rank 0 is started as a new process, not forked: {reason}" in log.read_text()


def test_ranks_of_one_process_are_forked_from_one_server_that_ends_with_it(tmp_path):
    code = (
        "import os, sys\n"
        "from pipelines.config import LaunchConfig\n"
        "from pipelines.launch.ranks import run\n"
        "for _ in range(2):\n"
        "    launch = LaunchConfig(runs_uri=sys.argv[1])\n"
        "    print(os.getpid(), *run(lambda: (os.getppid(), 'tensorflow' in sys.modules), -1, launch=launch)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    (caller, server, has_tensorflow), second = (line.split() for line in done.stdout.splitlines())
    assert has_tensorflow == "True"
    assert caller != server
    assert second == [caller, server, "True"]
    assert not psutil.pid_exists(int(server))


def test_seven_ranks_on_one_machine_find_each_other_through_spark_and_average_through_shared_memory(tmp_path):
    code = (
        "import sys\n"
        "from support import ranks\n"
        "from pipelines.config import LaunchConfig\n"
        "from pipelines.launch.ranks import run\n"
        "results = run(ranks.shared_memory_means, 7, (1000, 5), launch=LaunchConfig(runs_uri=sys.argv[1]))\n"
        "expected = sum(inputs[-1] for inputs, _ in results) / 7\n"
        "print(len(results), max(abs(means[-1] - expected).max() for _, means in results) < 1e-6)"
    )
    variables = {
        "PYSPARK_SUBMIT_ARGS": "--master local[7] pyspark-shell",
        "PYTHONPATH": str(ROOT / "tests"),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout.split() == ["7", "True"], done.stderr[-2000:]


@pytest.mark.parametrize(
    ("np", "settings", "changed"),
    [
        (3, ["model.name=convnet_dropout", "training.schedule=cosine"], []),
        (4, ["model.name=mlp", "training.precision=float16", "training.average_decay=0.9", "training.accumulation_steps=2"], []),
        (2, ["model.name=mlp", "training.compression=float16", "training.clip_norm=1"], []),
        # Only rank 0 has the best weights, in its checkpoint, when the others need them.
        (3, ["model.name=mlp", "launch.shared_memory=false", "training.bucket_mb=0.01"], ["training.early_stopping_patience=1"]),
    ],
    ids=["shared memory", "float16", "compressed", "Horovod"],
)
def test_a_training_resumed_inside_an_epoch_ends_with_the_weights_of_one_that_was_not_stopped(
    launch, table, tmp_path, np, settings, changed
):
    recipe = ["training.epochs=2", "training.batch_size_per_worker=16", "training.precision=float32", *settings]
    arguments = (table.uri, recipe, str(tmp_path / "trained"), (2, 5), changed)
    launch = dataclasses.replace(launch, threads_per_worker=1)
    results = run(ranks.trained_whole_and_in_two_parts, -np, arguments, launch=launch)
    whole, resumed, position = results[0]
    assert results == [results[0]] * np
    assert position == "epoch 1, step 5"
    assert resumed == whole
