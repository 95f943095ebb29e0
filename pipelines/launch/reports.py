"""Passes what the workers report in the run folder on to the console, the recorder and a sweep."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.launch.clock import Clock
from pipelines.track.console.console import TrainingConsole
from pipelines.track.recorder import Recorder
from pipelines.track.rundir import layout, logs
from pipelines.track.rundir.events import Event, ModelSaved, NodeSample, SpoolReader

# What rank 0 tells when its work is done (`pipelines.launch.train_function`), and how late a shared file system may show it.
_LAST_REPORT = ModelSaved.kind
_LATE_SECONDS = 10


def follow(
    run_dir: Path,
    console: TrainingConsole,
    recorder: Recorder,
    clock: Clock,
    watch: Callable[[Sequence[Event]], None] | None,
) -> Callable[[], None]:
    """A function that passes on what the workers have reported since it was last called."""
    spool, lines = SpoolReader(run_dir / layout.SPOOL_FOLDER), logs.LogTail(run_dir / layout.LOG_FOLDER)
    for event in spool.new_events():
        # A run that goes on has told this before.
        recorder.remember(event)

    def pass_on() -> None:
        events = list(spool.new_events())
        for event in events:
            recorder.event(event)
            if event.rank == 0 and not isinstance(event.values, NodeSample):
                clock.mark(event.kind, event.time)
                console.show(event)
        if console.verbosity == "verbose":
            for line in lines.new_lines("rank-*.log"):
                console.echo(line)
        if watch is not None:
            watch([event for event in events if event.rank == 0 and not isinstance(event.values, NodeSample)])

    return pass_on


def await_last_report(pass_on: Callable[[], None], clock: Clock, console: TrainingConsole) -> None:
    """Wait until the last report of rank 0 is seen: some shared file systems show a file late."""
    deadline = time.monotonic() + _LATE_SECONDS
    while _LAST_REPORT not in clock.marks:
        if time.monotonic() > deadline:
            console.warn(f"the run folder shows no last report of rank 0 after {_LATE_SECONDS} s; metrics may be missing")
            return
        time.sleep(0.1)
        pass_on()
