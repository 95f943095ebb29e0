"""Records the events of the workers: as metrics of the run while it trains, and in figures at the end."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from pipelines import tasks
from pipelines.data.table.schema import TableManifest
from pipelines.errors import DataError
from pipelines.system import atomic
from pipelines.track.figures import catalog, timeline
from pipelines.track.figures.style import Drawing
from pipelines.track.figures.timeline import Phase
from pipelines.track.run_page import resolved
from pipelines.track.rundir import figure_data, layout
from pipelines.track.rundir.events import (
    EpochEnd,
    Event,
    FinalScore,
    FirstStep,
    ModelSaved,
    NodeSample,
    TrainingPlan,
    WeightsTaken,
)
from pipelines.track.rundir.symptom import Symptom
from pipelines.track.tracked_run import TrackedRun

# Metrics that differ when the same epoch is trained again.
_TIMED = ("epoch_seconds", "rows_per_second")
# MLflow orders the charts of a run by the names of their groups, so this one comes after train, test and validation.
_EPOCH_SECONDS = "workers/epoch_seconds_{rank}"
_ROWS_PER_SECOND = "workers/rows_per_second_{rank}"
# The name in earlier versions, with which a resumed run may have started.
_FORMER_EPOCH_SECONDS = "ranks/epoch_seconds_{rank}"


class Recorder:
    """Records the events of all ranks and nodes.

    Args:
        run: the run to record to.
        run_dir: its folder, with the data of the figures.
        manifest: manifest of the table.
        title: identifies the run in figures.
        submitted: when the job was submitted, in seconds since the Unix epoch; start of the timeline.
    """

    def __init__(self, run: TrackedRun, run_dir: Path, manifest: TableManifest, title: str, submitted: float) -> None:
        self.phases: list[Phase] = []
        self._run = run
        self._run_dir = run_dir
        self._manifest = manifest
        self._title = title
        self._tested: set[int] = set()
        self._drawn: list[str] = []
        # A restarted training repeats epochs; the last report counts.
        self._epochs: dict[int, Mapping[str, float]] = {}
        self._reported: dict[tuple[int, int], Mapping[str, float]] = {}
        # Epochs of each rank recorded by earlier jobs.
        self._recorded: dict[int, set[int]] = {}
        self._submitted = submitted
        self._since: dict[int, float] = {}
        self._workers = 1
        self._planned = False
        self._symptoms: list[bytes] = []

    @property
    def history(self) -> list[Mapping[str, float]]:
        """Metrics of each epoch."""
        return [self._epochs[epoch] for epoch in sorted(self._epochs)]

    def remember(self, event: Event) -> None:
        """Restore the state from an event of an earlier job of this run, and record the event if that job missed it."""
        match event.values:
            case TrainingPlan() as plan:
                self._planned = True
                self._workers = plan.workers
            case EpochEnd() as end:
                if event.rank not in self._recorded:
                    names = [name.format(rank=event.rank) for name in (_EPOCH_SECONDS, _FORMER_EPOCH_SECONDS)]
                    self._recorded[event.rank] = self._run.recorded_steps(*names)
                if end.epoch in self._recorded[event.rank]:
                    self._is_new(event.rank, end)
                else:
                    self._epoch(event.rank, end)

    def event(self, event: Event) -> None:
        """Record a new event of a rank or node."""
        values = event.values
        if isinstance(values, NodeSample):
            node = {f"system/node-{event.rank}/{name}": value for name, value in values.metrics.items()}
            self._run.metrics(node, values.sample)
            return
        if isinstance(values, TrainingPlan) and event.rank == 0:
            self._tested.clear()
            self._drawn.clear()
            self._workers = values.workers
            if not self._planned:
                self._planned = True
                self._run.parameters(resolved(values))
        if isinstance(values, WeightsTaken) and event.rank == 0:
            self._run.tags({"model.weights": values.line})
        if isinstance(values, EpochEnd):
            self._epoch(event.rank, values)
        self._rank_phases(event)
        if isinstance(values, FinalScore):
            self._tested.add(event.rank)
            if len(self._tested) == self._workers:
                # All data is there, and rank 0 is busy saving the model.
                self._draw()

    def restart(self, reason: str) -> None:
        """Record a restart of the ranks."""
        # Numbered over the whole run, in which a resumption starts them, too.
        number = layout.attempts(self._run_dir)
        self._run.tags({"restarts": str(number), f"restart.{number}": reason})

    def symptom(self, symptom: Symptom) -> None:
        """Record what slows the training or has ended the ranks: in the run folder, and as a tag."""
        path = self._run_dir / layout.SYMPTOMS_FILE
        # A disk that is full or slow to answer may be the symptom.
        with contextlib.suppress(OSError):
            if not self._symptoms and path.exists():
                # Of the run before it was resumed.
                self._symptoms = path.read_bytes().splitlines(keepends=True)
        self._symptoms.append(symptom.line_of_record())
        with contextlib.suppress(OSError):
            # Whole, because object stores support no appends.
            atomic.write(path, b"".join(self._symptoms))
        number = len(self._symptoms)
        self._run.tags({"symptoms": str(number), f"symptom.{number}": f"{symptom.kind}: {symptom.line}"})

    def phase(self, name: str, start: float, stop: float) -> None:
        """Record a phase of the driver; times are in seconds since the Unix epoch."""
        self._phase("driver", name, start, stop)

    def figures(self) -> list[str]:
        """Draw the remaining figures in the background and return the names of all. The phase "logging" starts now."""
        logging_since = time.time()
        if not self._drawn:
            self._draw()

        def draw() -> Drawing:
            self.phase("logging", logging_since, time.time())
            return timeline.draw(self.phases)

        self._run.figure(draw, "timeline")
        return [*self._drawn, "timeline"]

    def _draw(self) -> None:
        drawings = catalog.drawings(self._run_dir, self._manifest, self.history, self._title)
        for name, draw in drawings.items():
            self._run.figure(draw, name)
        self._drawn = list(drawings)
        if figure_data.has_predictions(self._run_dir):
            try:
                test = figure_data.load_predictions(self._run_dir)
            except DataError as error:
                self._run.warnings.append(str(error))
                return
            more = tasks.of(self._manifest.spec.task).more_metrics(test)
            if more:
                self._run.metrics({f"test/{name}": value for name, value in more.items()}, len(self.history))

    def _is_new(self, rank: int, end: EpochEnd) -> bool:
        """False for an epoch that a restarted training has repeated with the same result."""
        reported = self._reported.get((rank, end.epoch))
        self._reported[rank, end.epoch] = end.metrics
        if rank == 0:
            self._epochs[end.epoch] = end.metrics
        return reported is None or any(reported.get(name) != value for name, value in end.metrics.items() if name not in _TIMED)

    def _epoch(self, rank: int, end: EpochEnd) -> None:
        if not self._is_new(rank, end):
            return
        values = {
            _EPOCH_SECONDS.format(rank=rank): end.metrics["epoch_seconds"],
            _ROWS_PER_SECOND.format(rank=rank): end.metrics["rows_per_second"] / self._workers,
        }
        if rank == 0:
            values |= end.metrics
        self._run.metrics(values, end.epoch)

    def _rank_phases(self, event: Event) -> None:
        """Each event ends the phase that the event before it started."""
        lane, now = f"rank {event.rank}", event.time
        since = self._since.get(event.rank, now)
        match event.values:
            case EpochEnd() as end:
                validated = now - end.validation_seconds
                self._phase(lane, f"epoch {end.epoch}", since, validated)
                if validated < now:
                    self._phase(lane, "validation", validated, now)
            case FinalScore():
                self._phase(lane, "test", since, now)
            case ModelSaved():
                self._phase(lane, "saving", since, now)
            case FirstStep():
                self._phase(lane, "first step", since, now)
            case TrainingPlan():
                pass
            case _:
                return
        self._since[event.rank] = now

    def _phase(self, lane: str, name: str, start: float, stop: float) -> None:
        self.phases.append(Phase(lane, name, start - self._submitted, stop - self._submitted))
