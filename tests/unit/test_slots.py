from types import SimpleNamespace

import pytest

from pipelines.config import loader
from pipelines.errors import ConfigError, LaunchError
from pipelines.launch import restarts, slots
from pipelines.launch.health.failures import Failure
from pipelines.launch.workers.barrier import RankError

LOST = Failure(rank=1, host="node", time=0.0, error="its Spark task was lost", traceback="", log_path="", lost=True)


@pytest.fixture
def spark(monkeypatch):
    """A session whose number of slots is taken from a list, one by one; the last one stays."""
    session = SimpleNamespace(left=[0], master="spark://head:7077", startTime=0)
    conf = SimpleNamespace(get=lambda key, default=None: default)
    session.sparkContext = SimpleNamespace(master=session.master, startTime=0, getConf=lambda: conf)
    monkeypatch.setattr(slots, "available", lambda _: session.left.pop(0) if len(session.left) > 1 else session.left[0])
    monkeypatch.setattr(slots.time, "sleep", lambda _: None)
    monkeypatch.setattr(slots, "_REVIVE_SECONDS", 0.05)
    return session


def test_lost_slots_that_return_are_used_again(spark):
    spark.left = [2, 3, 4]
    assert slots.wait_for_return(spark, 4, 2, 5) == 4


def test_fewer_workers_run_if_slots_stay_lost_and_fewer_are_allowed(spark):
    spark.left = [3]
    assert slots.wait_for_return(spark, 4, 2, 5) == 3


def test_too_few_slots_are_rejected_with_the_setting_responsible(spark):
    spark.left = [1]
    with pytest.raises(LaunchError, match=r"^launch\.min_workers=2: only 1 task slots are left \(spark://head:7077\); add nodes"):
        slots.wait_for_return(spark, 4, 2, 0.1)
    with pytest.raises(LaunchError, match=r"^launch\.workers=4: only 1 task slots are available"):
        slots.wait_for_return(spark, 4, 0, 0.1)


def test_a_training_that_compresses_gradients_continues_on_the_one_worker_that_is_left(spark):
    # Rules for what a user asks for, as that one worker has nothing to compress, are not for what becomes of it.
    settings = ["launch.workers=2", "launch.min_workers=1", "training.compression=float16", "launch.start_timeout_seconds=1"]
    config = loader.load(None, settings)
    spark.left = [1]
    left = restarts._with_available_workers(spark, config, 2, RankError((LOST,)))
    assert (left.launch.workers, left.training) == (1, config.training)
    with pytest.raises(ConfigError, match=r"training\.compression=float16: must be none when launch\.workers is 1"):
        loader.load(None, [*settings, "launch.workers=1"])
    with pytest.raises(ConfigError, match=r"training\.compression=float16: must be none when launch\.workers is 1"):
        loader.changed(config, {"launch.workers": 1}, "trial")


def test_only_executors_of_a_new_session_are_waited_for(spark, monkeypatch):
    spark.left = [0, 0, 4]
    with pytest.raises(LaunchError, match=r"only 0 task slots"):
        slots.wait_for_start(spark, 4)
    spark.left = [0, 0, 4]
    spark.sparkContext.startTime = 1000 * slots.time.time()
    slots.wait_for_start(spark, 4)
