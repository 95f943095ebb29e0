import subprocess
import sys

import pytest
from support.disk_faults import fill, small_disk

from pipelines.errors import ConvoyError
from pipelines.track.mlflow import parent
from pipelines.track.mlflow.journal import Journal
from pipelines.track.mlflow.replay import with_trials
from pipelines.track.rundir import layout


def actions(journal):
    return [(entry.n, entry.action) for entry in journal.entries()]


def test_the_next_process_reads_what_was_appended(tmp_path):
    journal = Journal(tmp_path)
    journal.append("open", {"name": "x"})
    journal.append("metrics", {"step": 1, "values": {"loss": 0.5}}, at=12.5)
    entry = Journal(tmp_path).entries()[1]
    assert (entry.n, entry.action, entry.time) == (2, "metrics", 12500)
    assert entry.values == {"step": 1, "values": {"loss": 0.5}}


def test_an_incomplete_line_is_skipped_and_does_not_corrupt_the_next(tmp_path):
    Journal(tmp_path).append("open", {})
    with (tmp_path / "tracking" / "journal.jsonl").open("a") as file:
        file.write('{"n": 2, "action": "ta')
    journal = Journal(tmp_path)
    assert actions(journal) == [(1, "open")]
    journal.append("status", {"status": "KILLED"})
    assert actions(Journal(tmp_path)) == [(1, "open"), (2, "status")]


def test_only_entries_that_no_server_has_accepted_are_pending(tmp_path):
    journal = Journal(tmp_path)
    for action in ("open", "tags", "metrics"):
        journal.append(action, {})
    journal.opened("http://ann:secret1@h", "run1")
    journal.accept([1])
    journal.refuse(2, "too long")
    again = Journal(tmp_path)
    assert [entry.n for entry in again.pending()] == [3]
    assert layout.read_record(tmp_path).run_id == "run1"
    again.retry_refused()
    assert [entry.n for entry in again.pending()] == [2, 3]
    again.accept([2])
    assert Journal(tmp_path).accepted.refused == {}


def test_what_a_full_disk_refused_is_written_when_it_has_room(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        journal = Journal(disk)
        journal.append("open", {})
        ballast = fill(disk)
        journal.append("metrics", {"step": 1, "values": {"loss": 0.5, "note": "x" * 5000}})
        journal.opened("sqlite:///a.db", "run1")
        assert journal.problem.endswith("cannot be written (No space left on device)")
        ballast.unlink()
        journal.accept([1, 2])
        assert journal.problem == ""
        again = Journal(disk)
        assert again.entries() == journal.entries()
        assert again.accepted == journal.accepted
        assert layout.read_record(disk).run_id == "run1"


def test_the_number_of_an_entry_that_only_the_server_has_is_not_used_again(tmp_path):
    journal = Journal(tmp_path)
    journal.append("open", {})
    journal.opened("sqlite:///a.db", "run1")
    journal.accept([1, 2])
    journal.refuse(3, "too long")
    again = Journal(tmp_path)
    entry = again.append("metrics", {"step": 1, "values": {"loss": 0.5}})
    assert entry.n == 4
    assert again.pending() == Journal(tmp_path).pending() == [entry]


def test_entries_accepted_by_one_server_are_pending_for_another(tmp_path):
    journal = Journal(tmp_path)
    journal.append("open", {})
    journal.opened("sqlite:///a.db", "run1")
    journal.accept([1])
    journal.opened("sqlite:///b.db", "run2")
    assert [entry.n for entry in Journal(tmp_path).pending()] == [1]


def test_no_secret_reaches_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "planted-token")
    journal = Journal(tmp_path)
    journal.append("open", {"tracking_uri": "http://ann:planted1@h"})
    journal.append("tags", {"error": "401 for planted-token"})
    journal.file("config.yml", "uri: http://ann:planted1@h\n")
    journal.opened("http://ann:planted1@h", "run1")
    journal.refuse(2, "planted-token")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"***" in written
    assert b"planted" not in written


def test_a_run_has_ended_if_its_last_status_is_final(tmp_path):
    journal = Journal(tmp_path)
    assert not journal.ended
    for status, ended in (("KILLED", True), ("RUNNING", False), ("FINISHED", True)):
        journal.append("status", {"status": status})
        assert journal.ended is ended


def test_only_one_process_holds_the_journal_and_its_death_releases_it(tmp_path):
    code = (
        "import os, pathlib, sys, time; from pipelines.track.mlflow.journal import Journal\n"
        "with Journal(pathlib.Path(sys.argv[1])).exclusive() as mine:\n"
        "    print(mine, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline().strip() == "True"
        with Journal(tmp_path).exclusive() as mine:
            assert not mine
        other.kill()
        other.wait(10)
    with Journal(tmp_path).exclusive() as mine:
        assert mine


def test_a_folder_without_a_journal_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConvoyError, match=r"no tracking journal; name the folder of a run"):
        Journal.of(tmp_path)


def test_a_child_run_waits_for_its_parent_on_the_same_server(tmp_path):
    sweep, trial = tmp_path / "sweep", tmp_path / "sweep/trials/one"
    trial.mkdir(parents=True)
    journal = Journal(trial)
    journal.append("open", {"parent": "../.."})
    with pytest.raises(ConvoyError, match=r"sweep must be created first"):
        parent.tags(journal, "sqlite:///a.db")
    layout.write_record(sweep, layout.RunRecord("run1", "sqlite:///other.db"))
    with pytest.raises(ConvoyError, match=r"sweep must be created first"):
        parent.tags(journal, "sqlite:///a.db")
    layout.write_record(sweep, layout.RunRecord("run2", "sqlite:///a.db"))
    assert parent.tags(journal, "sqlite:///a.db") == {"mlflow.parentRunId": "run2"}
    assert with_trials(sweep) == [sweep, trial]
    assert with_trials(trial) == [trial]
