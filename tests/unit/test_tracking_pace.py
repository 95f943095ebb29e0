"""Reports of a training are sent to MLflow rarely, so that they do not slow it down."""

import time

import mlflow

from pipelines.config import TrackingConfig
from pipelines.track.mlflow.follower import MlflowSync
from pipelines.track.tracked_run import TrackedRun


def test_entries_during_a_rest_are_sent_together_and_the_end_does_not_wait_for_it(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sendings, catch_up = [], MlflowSync.catch_up
    monkeypatch.setattr(MlflowSync, "catch_up", lambda follower: sendings.append(time.monotonic()) or catch_up(follower))
    run = TrackedRun(TrackingConfig(uri=uri), "a run", tmp_path / "run")
    deadline = time.monotonic() + 60
    # Setting up the store takes about a second of CPU time, after which the thread rests as long as it may.
    while not run.run_id:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    steps = list(range(1, 31))
    for step in steps:
        run.metrics({"train/loss": 1 / step}, step)
        time.sleep(0.05)
    assert len(sendings) <= 2
    started = time.monotonic()
    run.finish("FINISHED")
    assert time.monotonic() - started < 5
    assert run.warnings == []
    history = mlflow.MlflowClient(uri).get_metric_history(run.run_id, "train/loss")
    assert [point.step for point in history] == steps
