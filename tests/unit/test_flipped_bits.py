"""Changed bits and lost ends in everything that Convoy keeps on disk: found, or without any effect."""

import dataclasses
import json
import random
import zipfile

import numpy as np
import pytest
from support.synthetic import write_table
from test_checkpoint import write as write_checkpoint

from pipelines.data.table import schema
from pipelines.data.table.verify import find_damage
from pipelines.errors import CheckpointError, ConvoyError, DataError
from pipelines.launch.health import failures
from pipelines.sweep import sweep_file
from pipelines.sweep.search import Study, TrialOutcome
from pipelines.system import checked_lines
from pipelines.track.mlflow.journal import Journal
from pipelines.track.rundir import figure_data, layout, summary
from pipelines.track.rundir.events import EpochEnd, SpoolReader, SpoolWriter
from pipelines.train.checkpoint import store
from tools.setup import horovod

DAMAGES = 25
SUMMARY = {
    "dataset": "digits",
    "note": "",
    "table": "tables/digits",
    "run_dir": "runs/one",
    "rows": {"train": 540, "validation": 60, "test": 100},
    "workers": 2,
    "epochs": 3,
    "best_epoch": 3,
    "precision": "float32",
    "test": {"loss": 0.0625, "accuracy": 0.9934, "rows": 100},
    "rows_per_second": 16378,
    "seconds": {"ingest": 0.0, "launch": 1.0, "first_step": 6.5, "train": 9.0, "total": 20.0},
}


class Found(Exception):
    """A reader has named the damaged file, or passed it over."""


def table(folder):
    return write_table(folder / "table", {"train": 120, "test": 20})


def read_table(folder):
    manifest = schema.read_manifest(folder / "table")
    damage = find_damage(folder / "table", manifest)
    if damage:
        raise Found(damage)
    return manifest


def checkpoints(folder):
    write_checkpoint(folder, 1)
    write_checkpoint(folder, 2)


def read_checkpoints(folder):
    """The state after the newest epoch; a damaged checkpoint is named, and the one before it taken."""
    named = []
    newest = store.newest(folder, named.append)
    if named:
        assert newest.state.epoch == 1
        raise Found(named[0])
    return newest.state, {name: array.tolist() for name, array in store.read_arrays(newest).items()}


def spool(folder):
    writer = SpoolWriter(folder / "spool", 0)
    for epoch in range(1, 7):
        writer.write(EpochEnd(epoch, {"train/loss": 1 / epoch}))
    writer.close()


def read_spool(folder):
    return [event.values for event in SpoolReader(folder / "spool").new_events()]


def journal(folder):
    kept = Journal(folder)
    kept.append("open", {"name": "one", "tracking_uri": "sqlite:///a.db"})
    for epoch in range(1, 7):
        kept.append("metrics", {"step": epoch, "values": {"train/loss": 1 / epoch}})
    kept.opened("sqlite:///a.db", "run1")
    kept.accept([1, 2, 3])
    kept.refuse(4, "too long")


def read_journal(folder):
    kept = Journal.of(folder)
    if kept.damaged or kept.forgotten:
        raise Found((kept.damaged + kept.forgotten)[0])
    # What is accepted without record is sent again, and changes nothing there.
    return [*kept.entries(), *sorted(kept.accepted.entries)]


def figures(folder):
    arrays = {"rows": np.arange(40), "targets": np.arange(40) % 4, "outputs": np.eye(40, dtype=np.float32)}
    figure_data.save(folder, "test-rank-0", **arrays, worst=np.arange(2), worst_images=np.zeros((2, 3, 3, 1), np.uint8))


def read_figures(folder):
    return [array.tolist() for array in vars(figure_data.load_predictions(folder)).values()]


def read_failures(folder):
    reports = failures.read_failures(folder)
    if reports[0].error.startswith(str(folder)):
        raise Found(reports[0].error)
    return reports


def wheel(folder):
    """A wheel in the cache, as the compilation leaves it."""
    with zipfile.ZipFile(folder / "horovod.whl", "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("horovod/metadata.json", json.dumps({"tensorflow": "2.21.0"}))
        content.writestr("horovod/mpi_lib.so", np.random.default_rng(1).integers(0, 4, 4000, np.uint8).tobytes())
    horovod.record(folder / "horovod.whl")


def read_wheel(folder):
    if not horovod.compiled_for(folder / "horovod.whl"):
        raise Found("horovod.whl is damaged")
    with zipfile.ZipFile(folder / "horovod.whl") as content:
        return {name: content.read(name) for name in content.namelist()}


def read_record(folder):
    record = layout.read_record(folder)
    if record is None:
        raise Found("run.json")
    return record


def grid(folder):
    """A sweep whose file is not in the folder."""
    file = folder.with_name(f"{folder.name}-sweep.yml")
    file.write_text("config: conf/train_cnn.yml\nspace: {training.seed: [1, 2, 3, 4]}\n")
    return sweep_file.load(file)


def sweep(folder):
    study = Study(grid(folder), folder)
    for value in (0.5, 0.25, 0.125):
        study.tell(study.ask().number, TrialOutcome(state="finished", value=value, seconds=1.5))


def read_sweep(folder):
    return Study(grid(folder), folder).ended()


KINDS = {
    "table": (table, read_table),
    "checkpoint": (checkpoints, read_checkpoints),
    "spool": (spool, read_spool),
    "journal": (journal, read_journal),
    "figures": (figures, read_figures),
    "summary": (
        lambda folder: summary.write(SUMMARY, folder / "summary.json", private=True),
        lambda folder: dataclasses.asdict(summary.read(folder / "summary.json")),
    ),
    "failures": (
        lambda folder: failures.write_failure(folder, failures.failure_from_exit_code(-9, rank=1, host="one", log_path="x.log")),
        read_failures,
    ),
    "record": (lambda folder: layout.write_record(folder, layout.RunRecord("run1", "sqlite:///a.db")), read_record),
    "wheel": (wheel, read_wheel),
    "sweep": (sweep, read_sweep),
}


def damaged(content, rng):
    """One bit changed, or the end cut off."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    position = rng.randrange(len(content))
    return content[:position] + bytes([content[position] ^ 1 << rng.randrange(8)]) + content[position + 1 :]


def outcome(read, folder):
    """What a reader gets, and how it names the damage."""
    try:
        return read(folder), ""
    except (Found, ConvoyError, ValueError) as error:
        return None, str(error).splitlines()[0]


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_passes_for_other_content(tmp_path, kind):
    write, read = KINDS[kind]
    write(tmp_path)
    expected = read(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock")
    rng, found = random.Random(kind), 0
    for number in range(DAMAGES):
        path = rng.choice(files)
        content = path.read_bytes()
        path.write_bytes(damaged(content, rng))
        values, named = outcome(read, tmp_path)
        found += bool(named) or values != expected
        if kind in ("spool", "journal", "sweep") and not named:
            # What is left of a log is as it was written. A line that was cut off counts as never written.
            assert [value for value in values if value not in expected] == [], (number, path)
        elif not named:
            assert values == expected, (number, path)
        path.write_bytes(content)
    # Of two checkpoints the older one is not read.
    assert found > DAMAGES // 3
    assert read(tmp_path) == expected


def test_a_line_is_as_it_was_written_incomplete_or_damaged():
    line = checked_lines.encode({"n": 1, "loss": 0.25}).rstrip(b"\n")
    assert checked_lines.decode(line) == {"n": 1, "loss": 0.25}
    assert checked_lines.decode(b'{"n": 1}') == {"n": 1}
    assert checked_lines.decode(b"") is None
    for length in range(1, len(line) - 1):
        assert checked_lines.decode(line[:length]) is None, line[:length]
    for position in range(len(line)):
        for bit in range(8):
            changed = line[:position] + bytes([line[position] ^ 1 << bit]) + line[position + 1 :]
            try:
                values = checked_lines.decode(changed)
            except DataError:
                continue
            # A changed name of the checksum leaves the rest as it was.
            assert values is None or {"n": 1, "loss": 0.25}.items() <= values.items(), changed


def test_a_changed_digit_of_a_log_is_named(tmp_path, caplog):
    spool(tmp_path)
    journal(tmp_path)
    for file in (tmp_path / "spool/rank-0.jsonl", tmp_path / "tracking/journal.jsonl"):
        file.write_bytes(file.read_bytes().replace(b"0.5", b"0.7"))
    assert [end.epoch for end in read_spool(tmp_path)] == [1, 3, 4, 5, 6]
    assert "rank-0.jsonl: a line is not as it was written: some of its bytes have changed" in caplog.text
    with pytest.raises(Found, match=r"journal.jsonl: line 3 is not as it was written: some of its bytes have changed"):
        read_journal(tmp_path)


def test_a_damaged_acceptance_costs_no_entry(tmp_path):
    journal(tmp_path)
    file = tmp_path / "tracking/accepted.jsonl"
    file.write_bytes(file.read_bytes().replace(b"[1, 2, 3]", b"[1, 2, 7]"))
    kept = Journal.of(tmp_path)
    assert kept.damaged == []
    assert [line.rpartition("/")[2] for line in kept.forgotten] == [
        "accepted.jsonl: line 2 is not as it was written: some of its bytes have changed"
    ]
    assert {1, 2, 3} <= {entry.n for entry in kept.pending()}


def test_a_journal_that_cannot_say_which_run_it_is_of_is_refused(tmp_path):
    journal(tmp_path)
    file = tmp_path / "tracking/journal.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"one"', b'"onf"'))
    with pytest.raises(ConvoyError, match=r"line 1 is not as it was written.*restore the file from a copy"):
        Journal.of(tmp_path)


def test_a_damaged_checkpoint_alone_is_refused(tmp_path):
    path = write_checkpoint(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b'"workers": 2', b'"workers": 3'))
    with pytest.raises(CheckpointError, match="its SHA-256 differs"):
        store.verify(path)
