"""Follows what the ranks report in the run folder."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.launch.clock import Clock
from pipelines.track.console.console import TrainingConsole
from pipelines.track.recorder import Recorder
from pipelines.track.rundir import layout, logs
from pipelines.track.rundir.events import Event, ModelSaved, NodeSample, SpoolReader
from pipelines.track.rundir.symptom import Symptom

# The last event of rank 0 (`pipelines.launch.train_function`), and how late a shared file system may show it.
_LAST_EVENT = ModelSaved.kind
_LATE_SECONDS = 10


class ReportObserver:
    """Passes on what the ranks report: to the console, the recorder, the clock and a sweep.

    Args:
        run_dir: the run's folder.
        console: shows rank 0's events, and the ranks' log lines where it is verbose.
        recorder: records the events of all ranks and nodes.
        clock: marks when rank 0's first event of each kind happened.
        watch: called at each poll with rank 0's new events; what it raises ends the training.
    """

    def __init__(
        self,
        run_dir: Path,
        console: TrainingConsole,
        recorder: Recorder,
        clock: Clock,
        watch: Callable[[Sequence[Event]], None] | None,
    ) -> None:
        self._console, self._recorder, self._clock, self._watch = console, recorder, clock, watch
        self._spool = SpoolReader(run_dir / layout.SPOOL_FOLDER)
        self._log = logs.LogTail(run_dir / layout.LOG_FOLDER)
        for event in self._spool.new_events():
            # Events of the run before it was resumed.
            recorder.remember(event)

    def poll(self) -> None:
        """Pass on what is new."""
        events = list(self._spool.new_events())
        for event in events:
            self._recorder.event(event)
        of_rank_0 = [event for event in events if event.rank == 0 and not isinstance(event.values, NodeSample)]
        for event in of_rank_0:
            self._clock.mark(event.kind, event.time)
            self._console.show(event)
        if self._console.verbosity == "verbose":
            for line in self._log.new_lines("rank-*.log"):
                self._console.echo(line)
        if self._watch is not None:
            self._watch(of_rank_0)

    def warn(self, line: str) -> None:
        self._console.warn(line)

    def symptom(self, symptom: Symptom) -> None:
        if not symptom.ended_ranks:
            self._console.warn(symptom.line)
        self._recorder.symptom(symptom)

    def restarting(self, reason: str) -> None:
        self._console.warn(reason)
        self._recorder.restart(reason)

    def await_last_report(self) -> None:
        """Wait until the last event of rank 0 is seen: some shared file systems show a file late."""
        deadline = time.monotonic() + _LATE_SECONDS
        while _LAST_EVENT not in self._clock.marks:
            if time.monotonic() > deadline:
                line = f"the last event of rank 0 is not in the run folder after {_LATE_SECONDS} s; metrics may be missing"
                self._console.warn(line)
                return
            time.sleep(0.1)
            self.poll()
