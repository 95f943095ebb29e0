"""What the driver tells of a training that is slow, stands still or fails: which kind, of which rank, inferred from what."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipelines.system import checked_lines

Kind = Literal[
    # A rank that the others wait for, and why.
    "slow processor",
    "starved",
    "slow rank",
    # Ranks that wait for one another in turn.
    "wandering",
    "slow link",
    "lossy link",
    "slow network",
    "slow disk",
    "full disk",
    "clock",
    "memory",
    # No progress: with heartbeats, or without them.
    "stalled",
    "stopped",
    "locked",
    "silent",
    # Weights that differ: told in an epoch, and what ends the ranks after it.
    "drifted",
    # What ended the ranks.
    "lost",
    "preempted",
    "not finite",
]


@dataclass(frozen=True, kw_only=True)
class Symptom:
    """What is wrong, where, and from which figures that was inferred."""

    kind: Kind
    rank: int | None
    """None if it is not one rank's."""
    host: str
    line: str
    """For the user: rank, host, figures and remedy."""
    figures: Mapping[str, float | str] = field(default_factory=dict)
    """By name; durations in seconds."""
    ended_ranks: bool = False
    """The ranks have ended because of it, and an error or the line of a restart says so."""

    def line_of_record(self) -> bytes:
        """Its line in `layout.SYMPTOMS_FILE` (`pipelines.system.checked_lines`); `time` is in seconds since the Unix epoch."""
        return checked_lines.encode({"time": time.time(), **dataclasses.asdict(self)})
