"""What supervisors and the fork server send each other (`pipelines.launch.workers.forkserver`)."""

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.launch.workers.process_state import ProcessState
from pipelines.launch.workers.rank import RankDetails

LONGEST_REPLY = 300
REFUSED = "refused: "
"""Begins the reply to a request for a rank that is not forked; the reason follows."""


# Variables that the interpreter, the C library or an import reads once, which is too late for a forked rank.
_READ_AT_START = re.compile(
    r"(TF|XLA|KERAS|NUMBA|MALLOC|LC)_.*|LANG|LD_PRELOAD|GLIBC_TUNABLES|PYTHON(HASHSEED|WARNINGS|OPTIMIZE|UTF8|IOENCODING|DEVMODE)"
)


@dataclass(frozen=True)
class ForkRequest:
    """A supervisor's request for a rank, with all of its environment variables."""

    details: RankDetails
    environment: dict[str, str]
    state: ProcessState
    prefix: str
    """`sys.prefix` of the Python that would run a new process."""

    def obstacle(self, started: Mapping[str, str]) -> str:
        """Why a fork of this process would not be as a new process; empty if it would.

        Args:
            started: the environment that this process was started with.
        """
        if self.prefix != sys.prefix:
            return f"the fork server has another Python ({sys.prefix})"
        names = sorted(name for name in started.keys() | self.environment.keys() if _READ_AT_START.fullmatch(name))
        changed = [name for name in names if started.get(name) != self.environment.get(name)]
        if changed:
            return f"changed since the fork server was started: {', '.join(changed)}"
        return self.state.obstacle()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "ForkRequest":
        raw = json.loads(text)
        return cls(RankDetails(**raw["details"]), raw["environment"], ProcessState(**raw["state"]), raw["prefix"])
