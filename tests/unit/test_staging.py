"""Run folders on a real object-store mount (`object_store`), and the staging files for files that grow there."""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.disk_faults import fill, small_disk
from support.object_store import object_store
from test_checkpoint import STATE, arrays

from pipelines.sweep import sweep_file
from pipelines.sweep.search import Study, TrialOutcome
from pipelines.system import atomic, writeback
from pipelines.track.mlflow.journal import Journal
from pipelines.track.rundir import figure_data, layout
from pipelines.track.rundir.events import SpoolReader, SpoolWriter, StepProgress
from pipelines.train.checkpoint import store as checkpoints

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("disk") / "store") as mount:
        yield mount


@pytest.fixture
def run_dir(store):
    run_dir = layout.make(store / "runs", "run")
    yield run_dir
    writeback.close(run_dir)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Folder of the staging files in this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def test_probing_a_folder_leaves_no_files(store, tmp_path):
    assert (writeback.probe(tmp_path), writeback.probe(store), writeback.probe(tmp_path / "absent")) == (
        "appends",
        "whole files",
        "nothing",
    )
    assert list(tmp_path.iterdir()) == []
    assert [name for name in os.listdir(store) if name.startswith(".append")] == []


def test_a_read_only_folder_and_a_full_disk_are_distinguished_from_one_without_appends(tmp_path, unprivileged):
    (tmp_path / "forbidden").mkdir(mode=0o500)
    place = str(tmp_path / "forbidden")
    code = f"import pathlib; from pipelines.system import writeback; print(writeback.probe(pathlib.Path({place!r})))"
    assert unprivileged(code) == "nothing"
    with small_disk(tmp_path / "small", 1) as disk:
        fill(disk)
        assert writeback.probe(disk) == "nothing"


def test_with_appends_a_file_is_its_own_staging_file_and_no_thread_starts(tmp_path):
    before = threading.active_count()
    with writeback.staged(tmp_path) as stage:
        assert stage.folder is None
        assert stage.file(tmp_path / "logs" / "x.log") == tmp_path / "logs" / "x.log"
        assert threading.active_count() == before
        with stage.staged_folder(tmp_path / "model") as place:
            assert place == tmp_path / "model"
    assert list(tmp_path.iterdir()) == []


def test_a_growing_file_is_copied_meanwhile_and_completely_at_the_end(run_dir, temporary):
    log = run_dir / "logs" / "x.log"
    with writeback.staged(run_dir) as stage:
        growing = stage.file(log)
        append(growing, "first\n")
        wait_for(log.exists)
        assert log.read_text() == "first\n"
        append(growing, "second\n")
        wait_for(lambda: log.read_text() == "first\nsecond\n")
        append(growing, "last\n")
    assert log.read_text() == "first\nsecond\nlast\n"
    assert list(temporary.iterdir()) == []
    assert [path.name for path in log.parent.iterdir()] == ["x.log"]


def test_a_staging_file_begins_with_the_existing_content(run_dir):
    log = run_dir / "logs" / "x.log"
    log.write_text("of an earlier start\n")
    with writeback.staged(run_dir) as stage:
        append(stage.file(log), "of this one\n")
    assert log.read_text() == "of an earlier start\nof this one\n"


def test_a_reader_gets_each_event_once_while_the_spool_is_copied_repeatedly(run_dir):
    spool = run_dir / layout.SPOOL_FOLDER
    writer, reader, seen = SpoolWriter(spool, 0), SpoolReader(spool), []
    for number in range(200):
        writer.write(StepProgress(1, number, 1.0))
        if number % 7 == 0:
            writeback.stage_of(run_dir).publish()
        seen += reader.new_events()
    writer.close()
    writeback.close(run_dir)
    seen += reader.new_events()
    assert [event.values.step for event in seen] == list(range(200))


def test_a_process_that_adopts_a_stage_does_not_copy(run_dir):
    with writeback.staged(run_dir) as stage:
        code = (
            "import os, pathlib, signal, sys; from pipelines.system import writeback\n"
            "from pipelines.track.rundir.events import EpochEnd, SpoolWriter\n"
            "writeback.adopt(pathlib.Path(sys.argv[1]), sys.argv[2])\n"
            "SpoolWriter(pathlib.Path(sys.argv[1]) / 'spool', 1).write(EpochEnd(1, {}))\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(run_dir), str(stage.folder)], cwd=ROOT, timeout=30, check=False)
        assert done.returncode == -signal.SIGKILL
    assert [event.kind for event in SpoolReader(run_dir / "spool").new_events()] == ["epoch"]


def test_a_failed_copy_is_an_error_at_the_end_and_the_staging_file_stays(run_dir, temporary):
    (run_dir / "logs" / "x.log").mkdir()
    stage = writeback.new_stage(run_dir)
    growing = stage.staging_path(run_dir / "logs" / "x.log")
    growing.parent.mkdir(parents=True)
    append(growing, "kept\n")
    append(stage.file(run_dir / "logs" / "y.log"), "copied\n")
    with pytest.raises(OSError, match=r"x\.log"):
        stage.close()
    assert growing.read_text() == "kept\n"
    assert (run_dir / "logs" / "y.log").read_text() == "copied\n"


def test_staging_files_of_a_killed_process_are_removed_by_the_next_stage(run_dir, temporary):
    code = (
        "import os, pathlib, signal, sys; from pipelines.system import writeback\n"
        "stage = writeback.new_stage(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(run_dir)], cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)}, timeout=30, check=False
    )
    (left,) = temporary.iterdir()
    with writeback.staged(run_dir):
        assert not left.exists()


def test_a_journal_reads_the_same_before_and_after_it_is_copied(run_dir):
    journal = Journal(run_dir)
    journal.append("open", {"name": "x"})
    journal.file("figures/a.png", b"1")
    journal.file("figures/a.png", b"2")
    journal.opened("http://h", "run1")
    assert [entry.action for entry in Journal(run_dir).entries()] == ["open"]
    with journal.exclusive() as mine:
        assert mine
    writeback.close(run_dir)
    assert journal.problem == ""
    again = Journal(run_dir)
    assert (again.accepted.run_id, layout.read_record(run_dir).run_id) == ("run1", "run1")
    again.append("status", {"status": "FINISHED"})
    writeback.close(run_dir)
    assert [entry.action for entry in Journal(run_dir).entries()] == ["open", "status"]
    assert (run_dir / "tracking/files/figures/a.png").read_bytes() == b"2"


def test_checkpoints_and_arrays_are_written_sequentially_and_read_back(run_dir):
    for epoch in (1, 2, 3):
        path = checkpoints.write(run_dir, dataclasses.replace(STATE, epoch=epoch), arrays(epoch), keep=2)
    checkpoints.write(run_dir, dataclasses.replace(STATE, epoch=3), arrays(3), keep=2)
    assert checkpoints.newest(run_dir).path == path
    assert all((array == arrays(3)[name]).all() for name, array in checkpoints.read_arrays(checkpoints.verify(path)).items())
    assert len(checkpoints.available(run_dir)) == 2
    assert layout.find(run_dir.parent, "latest", run_dir) == run_dir
    (older,) = checkpoints.set_aside_after(run_dir, checkpoints.available(run_dir)[1])
    assert older == path
    figure_data.save(run_dir, "x", rows=np.arange(5))
    assert figure_data.load(run_dir, "x")["rows"].tolist() == [0, 1, 2, 3, 4]


def test_a_folder_written_with_seeks_is_copied_completely(run_dir):
    with writeback.staged(run_dir) as stage:
        with stage.staged_folder(run_dir / "model") as place:
            place.mkdir()
            np.savez(place / "seeks.npz", a=np.ones(3))
            (place / "data").mkdir()
            (place / "data" / "MLmodel").write_text("x")
        assert np.load(run_dir / "model" / "seeks.npz")["a"].tolist() == [1, 1, 1]
        assert (run_dir / "model" / "data" / "MLmodel").read_text() == "x"


def test_a_sweep_keeps_its_record_there_and_resumes_from_it(run_dir, tmp_path):
    (tmp_path / "base.yml").write_text("training: {epochs: 9}\n")
    (tmp_path / "sweep.yml").write_text(f"config: {tmp_path / 'base.yml'}\nspace: {{training.seed: [1, 2, 3]}}\n")
    sweep = sweep_file.load(tmp_path / "sweep.yml")
    study = Study(sweep, run_dir)
    study.tell(study.ask().number, TrialOutcome(state="finished", value=0.5))
    writeback.close(run_dir)
    assert sorted(path.name for path in run_dir.iterdir()) == ["logs", "trials.jsonl"]
    again = Study(sweep, run_dir)
    assert (again.left, [trial.outcome.value for trial in again.ended()]) == (2, [0.5])


def test_a_file_is_replaced_even_if_renames_cannot_overwrite(tmp_path):
    with object_store(tmp_path / "store", replaces=False) as store:
        for content in ("first", "second"):
            atomic.write(store / "x", content)
        assert (store / "x").read_text() == "second"
        assert os.listdir(store) == ["x"]


def test_a_failed_folder_replacement_keeps_the_existing_folder(tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "rows").write_text("earlier")
    unfinished = atomic.unfinished_folder(tmp_path, ".scoring-", "output")
    unfinished.rmdir()
    with pytest.raises(FileNotFoundError):
        atomic.replace_folder(unfinished, tmp_path / "output")
    assert (tmp_path / "output" / "rows").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["output"]
