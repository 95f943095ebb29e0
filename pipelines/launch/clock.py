"""Times at which a run reached its stages."""

import dataclasses
import time
from dataclasses import dataclass


@dataclass
class Clock:
    """Named marks, in seconds since the job was submitted."""

    submitted: float
    """Seconds since the Unix epoch."""
    marks: dict[str, float] = dataclasses.field(default_factory=dict)

    def mark(self, name: str, at: float | None = None) -> None:
        """Set a mark, unless it is set already, to a time in seconds since the Unix epoch; now by default."""
        self.marks.setdefault(name, (at or time.time()) - self.submitted)

    def at(self, name: str) -> float:
        """Time of a mark in seconds since the Unix epoch; the time of submission if it is not set."""
        return self.submitted + self.marks.get(name, 0.0)

    def between(self, start: str, stop: str) -> float:
        """Seconds between two marks."""
        return round(self.marks.get(stop, 0.0) - self.marks.get(start, 0.0), 2)
