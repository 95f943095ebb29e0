"""Turns what the workers report into the metrics of a run while it goes on, and into its figures at the end."""

import time
from pathlib import Path

from pipelines.data.table.schema import TableManifest
from pipelines.track.figures import calibration, catalog, timeline
from pipelines.track.figures.style import Drawing
from pipelines.track.figures.timeline import Phase
from pipelines.track.run_page import resolved
from pipelines.track.rundir import figure_data
from pipelines.track.rundir.events import Event
from pipelines.track.tracked_run import TrackedRun

# What differs when the same epoch is trained again.
_TIMED = ("epoch_seconds", "rows_per_second")
_EPOCH_SECONDS = "ranks/epoch_seconds_{rank}"


class Recorder:
    """Follows the events of all ranks and nodes.

    Args:
        run: where to record.
        run_dir: where the ranks leave what figures are drawn from.
        manifest: of the table.
        title: which run this is.
        submitted: when the job was submitted, in seconds since the Unix epoch; the timeline begins there.
    """

    def __init__(self, run: TrackedRun, run_dir: Path, manifest: TableManifest, title: str, submitted: float) -> None:
        self.phases: list[Phase] = []
        self._run = run
        self._run_dir = run_dir
        self._manifest = manifest
        self._title = title
        self._tested: set[int] = set()
        self._drawn: list[str] = []
        # A run that was restarted reports an epoch twice; the later one counts.
        self._epochs: dict[int, dict[str, float]] = {}
        self._told: dict[tuple[int, int], dict[str, float]] = {}
        # Epochs of each rank that earlier jobs have recorded.
        self._recorded: dict[int, set[int]] = {}
        self._submitted = submitted
        self._since: dict[int, float] = {}
        self._workers = 1
        self._planned = False

    @property
    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch."""
        return [self._epochs[epoch] for epoch in sorted(self._epochs)]

    def remember(self, event: Event) -> None:
        """Take in what an earlier job of the same run was told by its ranks, and record what it did not come to see."""
        if event.kind == "plan":
            self._planned = True
            self._workers = event.values["workers"]
        if event.kind == "epoch":
            if event.rank not in self._recorded:
                self._recorded[event.rank] = self._run.recorded_steps(_EPOCH_SECONDS.format(rank=event.rank))
            if event.values["epoch"] in self._recorded[event.rank]:
                self._is_news(event)
            else:
                self._epoch(event)

    def event(self, event: Event) -> None:
        """Record what a rank or a node has reported."""
        if event.kind == "system":
            node = {f"system/node-{event.rank}/{name}": value for name, value in event.values["metrics"].items()}
            self._run.metrics(node, event.values["sample"])
            return
        if event.kind == "plan" and event.rank == 0:
            self._tested.clear()
            self._drawn.clear()
            self._workers = event.values["workers"]
            if not self._planned:
                self._planned = True
                self._run.parameters(resolved(event.values))
        if event.kind == "epoch":
            self._epoch(event)
        self._rank_phases(event)
        if event.kind == "test":
            self._tested.add(event.rank)
            if len(self._tested) == self._workers:
                # All is there to be drawn, and rank 0 takes a while to save the network.
                self._draw()

    def phase(self, name: str, start: float, stop: float) -> None:
        """Something that the driver did; times are seconds since the Unix epoch."""
        self._phase("driver", name, start, stop)

    def figures(self) -> list[str]:
        """Have all figures drawn in the background that are not yet, and return the names of all. From now on the driver logs."""
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
            test = figure_data.load_predictions(self._run_dir)
            error = calibration.expected_calibration_error(test.labels, test.probabilities)
            self._run.metrics({"test/calibration_error": error}, len(self.history))

    def _is_news(self, event: Event) -> bool:
        """False for an epoch that a restarted training has repeated, with the same result."""
        told = self._told.get((event.rank, event.values["epoch"]))
        metrics: dict[str, float] = event.values["metrics"]
        self._told[event.rank, event.values["epoch"]] = metrics
        if event.rank == 0:
            self._epochs[event.values["epoch"]] = metrics
        return told is None or any(told.get(name) != value for name, value in metrics.items() if name not in _TIMED)

    def _epoch(self, event: Event) -> None:
        if not self._is_news(event):
            return
        metrics, epoch = event.values["metrics"], event.values["epoch"]
        values = {
            _EPOCH_SECONDS.format(rank=event.rank): metrics["epoch_seconds"],
            f"ranks/rows_per_second_{event.rank}": metrics["rows_per_second"] / self._workers,
        }
        if event.rank == 0:
            values |= metrics
        self._run.metrics(values, epoch)

    def _rank_phases(self, event: Event) -> None:
        """Each event ends what the rank did since the one before."""
        lane, kind, now = f"rank {event.rank}", event.kind, event.time
        since = self._since.get(event.rank, now)
        if kind == "epoch":
            validated = now - event.values.get("validation_seconds", 0.0)
            self._phase(lane, f"epoch {event.values['epoch']}", since, validated)
            if validated < now:
                self._phase(lane, "validation", validated, now)
        elif kind in ("test", "saved"):
            self._phase(lane, "test" if kind == "test" else "saving", since, now)
        elif kind == "first_step":
            self._phase(lane, "first step", since, now)
        elif kind != "plan":
            return
        self._since[event.rank] = now

    def _phase(self, lane: str, name: str, start: float, stop: float) -> None:
        self.phases.append(Phase(lane, name, start - self._submitted, stop - self._submitted))
