"""Control groups of the kernel, version 1 or 2, for processes that shall have little. Needs root."""

import contextlib
import os
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_IS_FIRST = (_MOUNT / "memory").is_dir()
# In microseconds, as the kernel's default.
_PERIOD = 100_000


def why_not():
    """Why there can be none here; empty if there can."""
    mount = _MOUNT / "memory" if _IS_FIRST else _MOUNT
    return "" if os.access(mount, os.W_OK) else f"{mount} cannot be written to"


@contextlib.contextmanager
def memory(limit):
    """A group whose processes may allocate so many bytes. Yields the file that takes their numbers."""
    with _group("memory", {"memory.limit_in_bytes" if _IS_FIRST else "memory.max": str(limit)}) as file:
        yield file


@contextlib.contextmanager
def processors(share):
    """A group whose processes may use so many processors together, 0.5 or more. Yields the file that takes their numbers."""
    quota = int(share * _PERIOD)
    with _group("cpu", {"cpu.cfs_quota_us": str(quota)} if _IS_FIRST else {"cpu.max": f"{quota} {_PERIOD}"}) as file:
        yield file


@contextlib.contextmanager
def memory_limit(pid, limit):
    """While the block runs, what a process allocates anew may take so many bytes."""
    with memory(limit) as file:
        lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        mount = _MOUNT / "memory" if _IS_FIRST else _MOUNT
        (before,) = [mount / path.lstrip("/") for _, kinds, path in lines if kinds == ("memory" if _IS_FIRST else "")]
        file.write_text(str(pid))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                # In a container, the group that the process was in may have another name.
                ((before if before.is_dir() else mount) / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def _group(controller, limits):
    group = (_MOUNT / controller if _IS_FIRST else _MOUNT) / f"convoy-{os.getpid()}-{controller}"
    group.mkdir()
    try:
        for name, value in limits.items():
            (group / name).write_text(value)
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
