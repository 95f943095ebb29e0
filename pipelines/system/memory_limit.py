"""The memory that this process can use: that of its control group, or of the machine."""

from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes. What the kernel can take back at once, such as cached files, is not in use."""

    used: int
    limit: int
    whose: str
    """Who sets the limit: "its control group" or "the machine"."""


def memory() -> Memory:
    """The tightest limit and what is used of it, by all processes that share it. Takes a fraction of a millisecond."""
    machine = psutil.virtual_memory()
    found = Memory(machine.total - machine.available, machine.total, "the machine")
    for group in _groups():
        limited = _of_group(group)
        if limited is not None and limited.limit < found.limit:
            found = limited
    return found


def _groups() -> list[Path]:
    """Folders of this process's control group for memory and those above it, of version 1 or 2."""
    try:
        lines = [line.split(":", 2) for line in _PROC.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, name in lines:
        if controllers in ("", "memory"):
            root = _MOUNT / controllers
            # In a container, the group's own name may not exist, and its files are at the root.
            relative = Path(name.lstrip("/"))
            found += [root / relative, *(root / parent for parent in relative.parents)]
    return found


def _of_group(folder: Path) -> Memory | None:
    """A group's limit and use; None if it sets no limit."""
    for limit, used, statistic in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            text = (folder / limit).read_text(encoding="ascii").strip()
            if text == "max":
                return None
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            in_use = int((folder / used).read_text(encoding="ascii")) - int(statistics.get(statistic, 0))
            return Memory(max(in_use, 0), int(text), "its control group")
        except (OSError, ValueError):
            continue
    return None
