"""What memory a process finds it can use, from control groups of both versions."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.system import memory_limit

VERSION_1 = Path("/sys/fs/cgroup/memory")
ALLOCATES = """
import sys
from pathlib import Path
(Path(sys.argv[1]) / "cgroup.procs").write_text("0")
filled = bytearray(b"x") * 150_000_000
from pipelines.system.memory_limit import memory
found = memory()
print(found.used, found.limit, found.whose, sep="|")
"""


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


@pytest.fixture
def system(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_limit, "_MOUNT", tmp_path)
    monkeypatch.setattr(memory_limit, "_PROC", tmp_path / "cgroup")
    return tmp_path


def test_without_a_group_that_sets_a_limit_it_is_the_machines(system):
    (system / "cgroup").write_text("0::/\n")
    group(system, memory_max="max\n", memory_current="5\n", memory_stat="inactive_file 1\n")
    found = memory_limit.memory()
    assert (found.limit, found.whose) == (psutil.virtual_memory().total, "the machine")
    assert 0 < found.used < found.limit


def test_of_several_groups_the_tightest_counts_and_cached_files_do_not(system):
    (system / "cgroup").write_text("0::/jobs/this\n")
    group(system / "jobs", memory_max="4000000\n", memory_current="3000000\n", memory_stat="anon 1\ninactive_file 500000\n")
    group(system / "jobs/this", memory_max="9000000\n", memory_current="8000000\n", memory_stat="inactive_file 0\n")
    assert memory_limit.memory() == memory_limit.Memory(2_500_000, 4_000_000, "its control group")


def test_a_container_sees_its_group_at_the_root(system):
    (system / "cgroup").write_text("4:memory:/docker/0123\n3:cpu:/docker/0123\n")
    files = {"limit_in_bytes": "4000000\n", "usage_in_bytes": "3000000\n", "stat": "total_inactive_file 1000000\n"}
    (system / "memory").mkdir()
    for name, text in files.items():
        (system / "memory" / f"memory.{name}").write_text(text)
    assert memory_limit.memory() == memory_limit.Memory(2_000_000, 4_000_000, "its control group")


@pytest.mark.skipif(not os.access(VERSION_1, os.W_OK), reason="control groups for memory, version 1, cannot be made here")
def test_a_real_group_is_found_with_what_its_processes_use():
    folder = VERSION_1 / f"convoy-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "memory.limit_in_bytes").write_text("400000000")
        done = subprocess.run(
            [sys.executable, "-c", ALLOCATES, str(folder)], capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        folder.rmdir()
    used, limit, whose = done.stdout.strip().split("|")
    assert 150e6 < int(used) < 300e6
    assert int(limit) == 400000000 // 4096 * 4096
    assert whose == "its control group"
