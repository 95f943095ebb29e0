"""What a new process inherits from the one that starts it, besides its environment and open files (Linux only).

A forked rank inherits it from the fork server, so the supervisor sends its own with each request, and the rank takes it over.
"""

import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LIMITS = tuple(name for name in dir(resource) if name.startswith("RLIMIT_"))
# `subprocess` restores their defaults, and Python ignores them when it starts.
_LEFT_TO_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """The state of a process, without its working directory, which has no reliable name. Plain data, for JSON."""

    umask: int
    limits: Mapping[str, tuple[int, int]]
    """Soft and hard limits by the names that `resource` gives them."""
    blocked: tuple[int, ...]
    """Signals that the starting thread blocks."""
    ignored: tuple[int, ...]
    cpus: tuple[int, ...]
    niceness: int

    @classmethod
    def of_this_thread(cls) -> "ProcessState":
        return cls(
            umask=_umask(),
            limits={name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
            blocked=tuple(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
            ignored=tuple(sorted(signum for signum in _signals() if signal.getsignal(signum) == signal.SIG_IGN)),
            cpus=tuple(sorted(os.sched_getaffinity(0))),
            niceness=os.getpriority(os.PRIO_PROCESS, 0),
        )

    def obstacle(self) -> str:
        """Why a child of this process could not take the state over; empty if it can. Only root may raise limits and priority."""
        if os.geteuid() == 0:
            return ""
        for name, (_, hard) in self.limits.items():
            own = resource.getrlimit(getattr(resource, name))[1]
            if own != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > own):
                return f"its limit {name} is higher than the fork server's"
        return "its priority is higher than the fork server's" if self.niceness < os.getpriority(os.PRIO_PROCESS, 0) else ""

    def take_over(self) -> None:
        """Give this process the state.

        Raises:
            OSError, ValueError: the operating system does not allow it.
        """
        os.umask(self.umask)
        for name, limits in self.limits.items():
            which = getattr(resource, name)
            if resource.getrlimit(which) != tuple(limits):
                resource.setrlimit(which, limits)
        if os.sched_getaffinity(0) != set(self.cpus):
            os.sched_setaffinity(0, self.cpus)
        if os.getpriority(os.PRIO_PROCESS, 0) != self.niceness:
            os.setpriority(os.PRIO_PROCESS, 0, self.niceness)
        for signum in _signals():
            if signum in self.ignored:
                signal.signal(signum, signal.SIG_IGN)
            elif signal.getsignal(signum) == signal.SIG_IGN:
                signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)


def _signals() -> list[int]:
    fixed = (signal.SIGKILL, signal.SIGSTOP, *_LEFT_TO_PYTHON)
    return sorted(int(signum) for signum in signal.Signals if signum not in fixed)


def _umask() -> int:
    # `os.umask` would change that of all threads for a moment.
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
