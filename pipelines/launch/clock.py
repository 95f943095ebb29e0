"""When a run reached each of its stages."""

import dataclasses
import time
from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds since the job was submitted, at the marks of the road."""

    submitted: float
    marks: dict[str, float] = dataclasses.field(default_factory=dict)

    def mark(self, name: str, at: float | None = None) -> None:
        self.marks.setdefault(name, (at or time.time()) - self.submitted)

    def at(self, name: str) -> float:
        """Seconds since the Unix epoch; when the job was submitted, for a mark that was not reached."""
        return self.submitted + self.marks.get(name, 0.0)

    def between(self, start: str, stop: str) -> float:
        return round(self.marks.get(stop, 0.0) - self.marks.get(start, 0.0), 2)
