"""Files and folders that are filled under a hidden name: always one of the versions, whole, and none removed that is in use."""

import errno
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.disk_faults import small_disk

from pipelines.system import atomic


def test_a_replacement_that_fails_says_where_the_existing_folder_is_and_a_later_one_puts_it_back(tmp_path, monkeypatch):
    rename = Path.rename
    output = tmp_path / "output"
    output.mkdir()
    (output / "rows").write_text("earlier")

    def full(path, target):
        if target == output:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    unfinished = atomic.unfinished_folder(tmp_path, ".scoring-", "output")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match=rf"No space left on device; what was there is now {unfinished}-old"):
            atomic.replace_folder(unfinished, output)
    # Another process may be between the two renames.
    atomic.unfinished_folder(tmp_path, ".scoring-", "output")
    assert not output.exists()
    monkeypatch.setattr(atomic, "_RENAMING_SECONDS", -1)
    again = atomic.unfinished_folder(tmp_path, ".scoring-", "output")
    assert (output / "rows").read_text() == "earlier"
    atomic.replace_folder(again, output)
    assert list(output.iterdir()) == []


def test_an_interrupt_between_the_renames_keeps_the_existing_folder(tmp_path, monkeypatch):
    (tmp_path / "output").mkdir()
    (tmp_path / "output/rows").write_text("earlier")
    unfinished = atomic.unfinished_folder(tmp_path, ".scoring-", "output")
    rename = Path.rename

    def interrupted(path, target):
        if path == unfinished:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic.replace_folder(unfinished, tmp_path / "output")
    assert (tmp_path / "output/rows").read_text() == "earlier"


def test_a_folder_that_was_killed_while_it_was_removed_is_not_put_back(tmp_path, monkeypatch):
    (tmp_path / "output").mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    atomic.replace_folder(atomic.unfinished_folder(tmp_path, ".scoring-", "output"), tmp_path / "output")
    (tmp_path / "output").rmdir()
    monkeypatch.setattr(atomic, "_RENAMING_SECONDS", -1)
    atomic.unfinished_folder(tmp_path, ".scoring-", "output")
    assert not (tmp_path / "output").exists()


def test_a_folder_is_abandoned_only_if_nothing_in_it_has_changed_for_a_day(tmp_path):
    two_days_ago = time.time() - 2 * 24 * 3600
    for name in ("used", "unused"):
        folder = tmp_path / f".building-{name}"
        (folder / "split=train").mkdir(parents=True)
        (folder / "split=train" / "part-00000.parquet").write_text("rows")
        for path in (folder / "split=train" / "part-00000.parquet", folder / "split=train", folder):
            os.utime(path, (two_days_ago, two_days_ago))
    (tmp_path / ".building-used/split=train/part-00000.parquet").write_text("more rows")
    atomic.unfinished_folder(tmp_path, ".building-", "new")
    assert (tmp_path / ".building-used/split=train/part-00000.parquet").exists()
    assert not (tmp_path / ".building-unused").exists()


def test_a_folder_that_waits_for_its_first_file_is_not_abandoned(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_TOUCH_SECONDS", 0.01)
    with atomic.unfinished(tmp_path, ".building-", "new") as folder:
        os.utime(folder, (0, 0))
        deadline = time.monotonic() + 10
        while time.time() - folder.stat().st_mtime > 60:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_tasks_left_is_removed_although_one_of_them_still_runs(tmp_path):
    (tmp_path / "_temporary/0").mkdir(parents=True)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "link").symlink_to(tmp_path / "_temporary")
    (tmp_path / "part-00000.parquet").write_text("rows")
    atomic.keep_only(tmp_path, [tmp_path / "part-00000.parquet"])
    assert os.listdir(tmp_path) == ["part-00000.parquet"]


def test_several_writers_of_one_file_leave_the_whole_text_of_one_of_them(tmp_path):
    target = tmp_path / "summary.json"
    texts = [str(number) * 100_000 for number in range(4)]

    def write_often(text):
        for _ in range(50):
            atomic.write(target, text)
            assert target.read_text() in texts

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, texts))
    assert target.read_text() in texts
    assert os.listdir(tmp_path) == ["summary.json"]


def test_a_file_that_could_not_be_written_keeps_its_old_text_and_leaves_nothing_else(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        atomic.write(disk / "x", "old")
        with pytest.raises(OSError, match="No space left"):
            atomic.write(disk / "x", "new" * 2**20)
        assert (disk / "x").read_text() == "old"
        assert os.listdir(disk) == ["x"]


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit((tmp_path / "pipe").read_text)
        atomic.write(tmp_path / "pipe", "text")
        assert reading.result(10) == "text"
    assert (tmp_path / "pipe").is_fifo()
