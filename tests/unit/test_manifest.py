import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synthetic import write_table

from pipelines.config import Config, DataConfig, IngestConfig
from pipelines.data.ingest import publish, table
from pipelines.data.ingest.permutation import Permutation, plan_segments
from pipelines.data.ingest.write_pass import WrittenFile, path_of
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.table.schema import MANIFEST_NAME, SourceFile, TableManifest, read_manifest
from pipelines.errors import ConfigError, DataError


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_the_order_of_the_rows_is_a_permutation(size, seed):
    positions = Permutation(size, seed, "train")(np.arange(size))
    assert np.array_equal(np.sort(positions), np.arange(size))


SOURCE_FILE = SourceFile(uri="some.txt", split="train", num_bytes=1, sha256="", rows=1, rejected_rows=0)


def test_the_order_depends_only_on_seed_and_name():
    numbers = np.arange(1000)
    first = Permutation(1000, 1, "train")(numbers)
    assert np.array_equal(first[600:], Permutation(1000, 1, "train")(numbers[600:]))
    assert not np.array_equal(first, Permutation(1000, 2, "train")(numbers))
    assert not np.array_equal(first, Permutation(1000, 1, "test")(numbers))


def test_the_order_mixes_the_rows():
    positions = Permutation(60_000, 1, "train")(np.arange(60_000))
    # Two random positions are a third of the range apart on average.
    assert np.abs(np.diff(positions)).mean() / 60_000 == pytest.approx(1 / 3, abs=0.01)
    # Rows sorted by class: every tenth of the order contains all ten classes about equally often.
    classes = np.arange(60_000)[np.argsort(positions)] // 6_000
    for tenth in classes.reshape(10, -1):
        assert np.bincount(tenth, minlength=10).min() > 500


def segments_of(train_rows, test_rows, bytes_per_row=784, **changes):
    settings = {"validation_fraction": 0.1, "test_fraction": 0.1, "rows_per_row_group": 0} | changes
    found = plan_segments(train_rows=train_rows, test_rows=test_rows, bytes_per_row=bytes_per_row, **settings)
    return {segment.split: segment for segment in found}


def test_mnist_is_divided_as_specified():
    segments = segments_of(60_000, 10_000)
    assert {split: segment.rows for split, segment in segments.items()} == {"train": 54_000, "validation": 6_000, "test": 10_000}
    assert segments["train"].num_files == 32


@given(
    st.integers(10, 10**7),
    st.one_of(st.none(), st.integers(1, 10**6)),
    st.floats(0, 0.5),
    st.floats(0.06, 0.5),
    st.integers(0, 5000),
)
def test_splits_cover_all_rows_with_files_of_equal_size_except_the_last(train_rows, test_rows, validation, test, per_group):
    segments = segments_of(
        train_rows, test_rows, validation_fraction=validation, test_fraction=test, rows_per_row_group=per_group
    ).values()
    assert sum(segment.rows for segment in segments) == train_rows + (test_rows or 0)
    of_train_file = sorted((segment.start, segment.rows) for segment in segments if segment.origin == "train")
    assert [start for start, _ in of_train_file] == [0, *np.cumsum([rows for _, rows in of_train_file])[:-1]]
    for segment in segments:
        last = segment.rows_of_file(segment.num_files - 1)
        assert 1 <= last <= segment.rows_per_file
        assert (segment.num_files - 1) * segment.rows_per_file + last == segment.rows


def test_rows_that_the_source_sets_aside_for_validation_are_not_drawn_again():
    segments = segments_of(1000, None, validation_rows=300)
    assert {split: (segment.origin, segment.start, segment.rows) for split, segment in segments.items()} == {
        "train": ("train", 100, 900),
        "validation": ("validation", 0, 300),
        "test": ("train", 0, 100),
    }


def test_files_of_large_images_stay_below_32_megabytes():
    assert segments_of(10_000, None, bytes_per_row=224 * 224 * 3)["train"].rows_per_file == 32 * 2**20 // (224 * 224 * 3)
    assert segments_of(10_000, None, bytes_per_row=2**26)["train"].rows_per_file == 1


def test_a_source_without_rows_to_test_on_is_rejected():
    with pytest.raises(DataError, match="no rows for the test split: the source has 3 rows"):
        segments_of(3, None)


def test_a_manifest_round_trips_through_its_file(tmp_path):
    written = write_table(tmp_path, {"train": 120, "test": 30})
    assert read_manifest(tmp_path) == written.manifest
    assert read_manifest(tmp_path / "elsewhere") is None
    (tmp_path / MANIFEST_NAME).write_text('{"schema_version": 2}')
    with pytest.raises(DataError, match="not a table manifest"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="schema version 99"):
        TableManifest.from_json('{"schema_version": 99}', "x")


def edited(*path_and_value):
    *path, value = path_and_value

    def edit(raw):
        for step in path[:-1]:
            raw = raw[step]
        raw[path[-1]] = value

    return edit


TRAIN_FILE = ("splits", "train", "files", 0)


@pytest.mark.parametrize(
    "edit",
    [
        edited(*TRAIN_FILE, "path", "../../x.parquet"),
        edited(*TRAIN_FILE, "path", "/etc/passwd"),
        edited(*TRAIN_FILE, "path", "split=train/../../x/part-00000.parquet"),
        edited(*TRAIN_FILE, "path", "split=test/part-00000.parquet"),
        edited(*TRAIN_FILE, "path", "split=train/part-00001.parquet"),
        edited(*TRAIN_FILE, "path", None),
        edited(*TRAIN_FILE, "rows", 51),
        edited(*TRAIN_FILE, "rows", "many"),
        edited("splits", "train", "rows_per_label", [1, 2, 3, 4]),
        edited("splits", "else", {"rows": 0, "rows_per_label": [0] * 4, "files": []}),
        edited("spec", "dtype", "object"),
        edited("spec", "shape", [12, 12, 0]),
        edited("spec", "shape", [12, 12]),
        edited("labels", []),
        edited("rejected_rows", 5),
        edited("unknown", 5),
        edited("reading", {"source": "guesses"}),
        edited("reading", "libsvm"),
        edited("training_rows_sha256", None),
        edited("splits", []),
    ],
)
def test_a_forged_or_inconsistent_manifest_is_rejected(tmp_path, edit):
    raw = json.loads(write_table(tmp_path, {"train": 120, "test": 30}).manifest.to_json())
    edit(raw)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"_manifest\.json: not a table manifest .*ingest again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b"{" * 3, b"[" * 200_000, b'{"schema_version": []}', b""])
def test_garbage_instead_of_a_manifest_is_a_one_line_error(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.fixture
def known(tmp_path):
    """A configuration, a source, and their finished table."""
    text = tmp_path / "some.txt"
    text.write_text("0 1:1\n")
    config = Config(data=DataConfig(image_shape=(12, 12, 1), classes=4), ingest=IngestConfig(tables_uri=str(tmp_path / "tables")))
    source = LibsvmFiles("some", ((str(text), "train"),))
    key = table._key(config, source, table.fingerprints_of(source), without_bad_rows=False)
    folder = tmp_path / "tables" / f"some-{key[:12]}"
    folder.mkdir(parents=True)
    manifest = dataclasses.replace(write_table(folder, {"train": 120, "test": 30}).manifest, key=key)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return config, source, folder


def test_an_existing_table_is_found_without_spark_under_any_class_names(known):
    config, source, folder = known
    found = table.find(config, source)
    assert found is not None
    assert found.uri == str(folder)
    named = dataclasses.replace(config, data=dataclasses.replace(config.data, class_names=("a", "b", "c", "d")))
    renamed = table.find(named, dataclasses.replace(source, note="mind this"))
    assert renamed is not None
    assert (renamed.manifest.class_names, renamed.manifest.note) == (("a", "b", "c", "d"), "mind this")


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("data", {"value_range": (0.0, 16.0)}),
        ("data", {"labels": (1, 2, 3, 4)}),
        ("data", {"image_shape": (144, 1, 1)}),
        ("data", {"zero_based": True}),
        ("ingest", {"seed": 2}),
        ("ingest", {"validation_fraction": 0.2}),
        ("ingest", {"test_fraction": 0.2}),
        ("ingest", {"rows_per_row_group": 10}),
    ],
)
def test_a_different_setting_means_a_different_table(known, section, change):
    config, source, _ = known
    changed = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **change)})
    assert table.find(changed, source) is None


def test_a_damaged_table_is_not_found(known):
    config, source, folder = known
    intact = (folder / MANIFEST_NAME).read_text()
    (folder / MANIFEST_NAME).write_text(intact[:100])
    assert table.find(config, source) is None
    (folder / MANIFEST_NAME).write_text(intact)
    assert table.find(config, source) is not None
    next(folder.glob("split=train/*.parquet")).unlink()
    assert table.find(config, source) is None


def test_a_table_without_its_malformed_rows_is_used_only_in_quarantine_mode(known):
    config, source, folder = known
    accepting = dataclasses.replace(config, ingest=dataclasses.replace(config.ingest, on_bad_rows="quarantine"))
    clean = table.find(config, source)
    assert clean is not None
    # Without malformed rows it is the same table.
    assert table.find(accepting, source) == clean
    key = table._key(config, source, table.fingerprints_of(source), without_bad_rows=True)
    sources = (dataclasses.replace(SOURCE_FILE, rows=147, rejected_rows=3),)
    manifest = dataclasses.replace(
        clean.manifest, key=key, rejected_rows=3, rejected_by_reason={"label_unknown": 3}, sources=sources
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    folder.rename(folder.parent / f"some-{key[:12]}")
    assert table.find(config, source) is None
    with pytest.raises(DataError, match=r"some\.txt: 3 of 150 rows are malformed; .*ingest\.max_bad_fraction=0\.01"):
        table.find(accepting, source)
    lenient = dataclasses.replace(accepting, ingest=dataclasses.replace(accepting.ingest, max_bad_fraction=0.02))
    found = table.find(lenient, source)
    assert found is not None
    assert found.manifest.rejected_summary == "3 malformed lines were set aside (3 label_unknown)"


def test_a_manifest_of_other_settings_is_not_accepted(known):
    config, source, folder = known
    manifest = read_manifest(folder)
    assert manifest is not None
    other_image = dataclasses.replace(manifest.spec, value_range=(0.0, 16.0))
    for foreign in (dataclasses.replace(manifest, key="1" * 64), dataclasses.replace(manifest, spec=other_image)):
        (folder / MANIFEST_NAME).write_text(foreign.to_json())
        assert table.find(config, source) is None


def test_a_missing_source_is_named(known):
    config, _, _ = known
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        table.find(config, LibsvmFiles("some", (("gone.txt", "train"),)))


def written_files(path, segments):
    """Reports of the tasks, unordered; creates their files."""
    files = []
    for number, segment in enumerate(segments):
        for index in range(segment.num_files):
            file = path / path_of(segment.split, index)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * index)
            rows = segment.rows_of_file(index)
            files.append(WrittenFile(number, index, index, f"{segment.split}{index}", [rows // 2, rows - rows // 2], b""))
    return files[::-1]


def test_the_files_of_the_tasks_become_the_table_in_row_order(tmp_path):
    segments = tuple(segments_of(30, None, validation_fraction=0, test_fraction=0.2, rows_per_row_group=10).values())
    files = written_files(tmp_path, segments)
    half_written = tmp_path / "split=train/.part-00001.parquet.0a1b2c3d"
    half_written.write_text("of a task that was killed")
    splits = publish.summarize(tmp_path, segments, files)
    assert [(file.path, file.rows, file.num_bytes, file.sha256) for file in splits["train"].files] == [
        ("split=train/part-00000.parquet", 10, 0, "train0"),
        ("split=train/part-00001.parquet", 10, 1, "train1"),
        ("split=train/part-00002.parquet", 4, 2, "train2"),
    ]
    assert splits["train"].rows_per_label == (12, 12)
    assert splits["test"].rows_per_label == (3, 3)
    assert not half_written.exists()


def test_a_task_that_still_runs_may_remove_its_file_first(tmp_path, monkeypatch):
    segments = tuple(segments_of(30, None, validation_fraction=0, test_fraction=0.2, rows_per_row_group=10).values())
    files = written_files(tmp_path, segments)
    for name in ("removed", "left"):
        (tmp_path / f"split=train/.part-00001.parquet.{name}").write_text("of a task")
    listed = Path.iterdir

    def removed_meanwhile(folder):
        found = list(listed(folder))
        (tmp_path / "split=train/.part-00001.parquet.removed").unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", removed_meanwhile)
    assert publish.summarize(tmp_path, segments, files)["train"].rows == 24
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "split=train").iterdir()) == [f"part-0000{n}.parquet" for n in range(3)]


def test_a_missing_file_is_named(tmp_path):
    segments = tuple(segments_of(30, None, validation_fraction=0, test_fraction=0.2, rows_per_row_group=10).values())
    files = written_files(tmp_path, segments)
    one_less = [file for file in files if (file.segment, file.file) != (0, 1)]
    with pytest.raises(DataError, match=r"split=train/part-00001\.parquet: was not written; run again"):
        publish.summarize(tmp_path, segments, one_less)
    (tmp_path / "split=train/part-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"split=train/part-00002\.parquet: was not written; run again"):
        publish.summarize(tmp_path, segments, files)


def test_an_unfinished_folder_is_removed_with_stale_ones_of_others(tmp_path):
    old, young = tmp_path / ".building-old", tmp_path / ".building-young"
    old.mkdir()
    young.mkdir()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))

    def interrupted_build():
        with publish.building(tmp_path, "abc", "tables") as unfinished:
            (unfinished / "half").write_text("a table")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_build()
    assert [path.name for path in tmp_path.iterdir()] == [".building-young"]


def test_an_unwritable_location_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"ingest\.tables_uri=here: cannot be written"),
        publish.building(tmp_path / "file" / "tables", "abc", "here"),
    ):
        pass


@pytest.fixture
def finished(tmp_path):
    """A folder with a table without its manifest, and the manifest."""
    manifest = write_table(tmp_path / "unfinished", {"train": 120, "test": 30}).manifest
    (tmp_path / "unfinished" / MANIFEST_NAME).unlink()
    return tmp_path / "unfinished", manifest


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_publishing_replaces_anything_that_is_not_the_table(tmp_path, finished, kind):
    target, outside = tmp_path / "target", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("of somebody else")
    if kind == "folder":
        target.mkdir()
        (target / "rest.parquet").write_text("of a dead run")
    elif kind == "file":
        target.write_text("in the way")
    else:
        target.symlink_to(outside)
    unfinished, manifest = finished
    assert publish.publish(unfinished, target, manifest) == manifest
    assert read_manifest(target) == manifest
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST_NAME, "split=test", "split=train"]
    assert not target.is_symlink()
    assert (outside / "precious").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "target"]


def test_a_table_finished_by_another_run_meanwhile_is_kept(tmp_path, finished):
    unfinished, manifest = finished
    theirs = write_table(tmp_path / "target", {"train": 120, "test": 30}).manifest
    theirs = dataclasses.replace(theirs, created_at="a second ago")
    (tmp_path / "target" / MANIFEST_NAME).write_text(theirs.to_json())
    assert publish.publish(unfinished, tmp_path / "target", manifest) == theirs
    assert unfinished.exists()


def test_a_read_only_folder_is_a_configuration_error(tmp_path, unprivileged):
    tmp_path.chmod(0o555)
    said = unprivileged(
        "from pathlib import Path\n"
        "from pipelines.data.ingest import publish\n"
        f"with publish.building(Path({str(tmp_path)!r}) / 'tables', 'abc', 'here'): pass\n"
    )
    tmp_path.chmod(0o755)
    assert said == "ConfigError: ingest.tables_uri=here: cannot be written (Permission denied); name another folder"
