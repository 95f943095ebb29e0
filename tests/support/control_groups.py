"""Control groups of the kernel, version 1 or 2, for processes that shall have little. Needs root."""

import contextlib
import os
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_FIRST = _MOUNT / "memory"


def why_not():
    """Why there can be none here; empty if there can."""
    mount = _FIRST if _FIRST.is_dir() else _MOUNT
    return "" if os.access(mount, os.W_OK) else f"{mount} cannot be written to"


@contextlib.contextmanager
def memory_limit(pid, limit):
    """While the block runs, what a process allocates anew may take so many bytes."""
    mount = _FIRST if _FIRST.is_dir() else _MOUNT
    name = "memory.limit_in_bytes" if _FIRST.is_dir() else "memory.max"
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    (before,) = [
        mount / path.lstrip("/") for _, controllers, path in lines if controllers == ("memory" if _FIRST.is_dir() else "")
    ]
    group = mount / f"convoy-{os.getpid()}-memory"
    group.mkdir()
    try:
        (group / name).write_text(str(limit))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            # In a container, the group that the process was in may have another name.
            ((before if before.is_dir() else mount) / "cgroup.procs").write_text(str(pid))
        group.rmdir()
