"""How a run ends when its block does, by its journal and its warnings. The tracking server never takes anything."""

import contextlib
import signal

import pytest
from support.reported import ReportedLines

from pipelines.config import TrackingConfig
from pipelines.errors import DataError, Interrupted
from pipelines.system import writeback
from pipelines.track.mlflow.follower import MlflowSync
from pipelines.track.mlflow.journal import Journal
from pipelines.track.tracked_run import EndedEarly, TrackedRun

NOWHERE = TrackingConfig(uri="http://127.0.0.1:9", finish_timeout_seconds=0.1)


@pytest.fixture(autouse=True)
def no_answer(monkeypatch):
    monkeypatch.setattr(MlflowSync, "catch_up", lambda sync: False)


@pytest.mark.parametrize(
    ("error", "status", "tags"),
    [
        (None, "FINISHED", []),
        (DataError("a line is wrong"), "FAILED", [{"error": "a line is wrong"}]),
        (DataError("x" * 600), "FAILED", [{"error": "x" * 500}]),
        (ValueError("a defect"), "FAILED", []),
        (Interrupted(signal.SIGTERM), "KILLED", []),
        (KeyboardInterrupt(), "KILLED", []),
        (EndedEarly("after epoch 2 of 3"), "FINISHED", [{"pruned": "after epoch 2 of 3"}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_ends_with_the_status_of_its_block_and_the_exception_propagates(tmp_path, error, status, tags):
    lines = ReportedLines()
    with pytest.raises(type(error)) if error is not None else contextlib.nullcontext() as caught:
        with TrackedRun(NOWHERE, "a run", tmp_path, reporter=lines):
            if error is not None:
                raise error
    assert error is None or caught.value is error
    entries = Journal(tmp_path).entries()
    assert [entry.values["status"] for entry in entries if entry.action == "status"] == [status]
    assert [entry.values for entry in entries if entry.action == "tags"] == tags
    (line,) = lines
    assert line.startswith("warning: MLflow at http://127.0.0.1:9 lacks ")
    assert "./convoy replay " in line


def test_what_could_not_be_copied_to_the_run_folder_is_a_warning(tmp_path, monkeypatch):
    def full(run_dir):
        raise OSError(28, "No space left on device", str(run_dir / "tracking" / "journal.jsonl"))

    monkeypatch.setattr(writeback, "close", full)
    lines = ReportedLines()
    with TrackedRun(NOWHERE, "a run", tmp_path, reporter=lines):
        pass
    cannot = "cannot be written (No space left on device); the end of its log and journal is missing there"
    assert lines[-1] == f"warning: {tmp_path}/tracking/journal.jsonl: {cannot}"


def test_what_a_run_has_already_is_not_recorded_again_after_it_was_resumed(tmp_path):
    with TrackedRun(NOWHERE, "a run", tmp_path) as run:
        run.metrics({"train/loss": 0.5, "seconds": 3.0}, 1)
        run.metrics({"test/loss": 0.25}, 1)
        # By a restart.
        run.metrics({"test/loss": 0.25}, 1)
    with TrackedRun(NOWHERE, "a run", tmp_path) as run:
        run.metrics({"train/loss": 0.5, "seconds": 4.0}, 1)
        run.metrics({"train/loss": 0.5}, 2)
        run.metrics({"test/loss": 0.25}, 1)
    recorded = [
        (entry.values["step"], entry.values["values"]) for entry in Journal(tmp_path).entries() if entry.action == "metrics"
    ]
    assert recorded == [
        (1, {"train/loss": 0.5, "seconds": 3.0}),
        (1, {"test/loss": 0.25}),
        (1, {"seconds": 4.0}),
        (2, {"train/loss": 0.5}),
    ]
