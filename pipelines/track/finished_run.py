"""A run that has ended, read from its folder: what it was asked, what came of it, and its figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import Config, loader
from pipelines.data.table import schema
from pipelines.data.table.schema import Table
from pipelines.errors import ConfigError
from pipelines.system import paths
from pipelines.track import run_page
from pipelines.track.figures import catalog
from pipelines.track.rundir import figure_data, layout, summary
from pipelines.track.rundir.events import EpochEnd, Event, SpoolReader
from pipelines.track.rundir.figure_data import Predictions
from pipelines.track.rundir.summary import TrainingSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FinishedRun:
    """A finished run."""

    run_dir: Path
    config: Config
    summary: TrainingSummary

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What all ranks reported, in the order of their clocks."""
        found = SpoolReader(self.run_dir / layout.SPOOL_FOLDER).new_events()
        return tuple(sorted(found, key=lambda event: event.time))

    @cached_property
    def history(self) -> tuple[Mapping[str, float], ...]:
        """The metrics of each epoch."""
        ends = [event.values for event in self.events if isinstance(event.values, EpochEnd) and event.rank == 0]
        # A run that was restarted reports an epoch twice; the later one counts.
        last = {end.epoch: end.metrics for end in ends}
        return tuple(last[epoch] for epoch in sorted(last))

    @cached_property
    def table(self) -> Table:
        """What it was trained on. Raises ConfigError when the table is not there any more."""
        uri = self.summary.table
        manifest = schema.read_manifest(paths.to_python(uri))
        if manifest is None:
            raise ConfigError(f"table {uri}: not there any more; train again")
        return Table(uri, manifest)

    @cached_property
    def predictions(self) -> Predictions:
        """What the trained network answered to the test rows. Raises ConfigError when they were not kept."""
        try:
            return figure_data.load_predictions(self.run_dir)
        except FileNotFoundError as error:
            raise ConfigError(f"{self.run_dir}: its predictions were not kept; train again") from error

    def figure(self, name: str) -> "Figure":
        """Draw one of its figures.

        Args:
            name: learning_curves, confusion_matrix, per_class, worst_mistakes, calibration, first_layer or examples.

        Raises:
            ConfigError: there is no such figure, or the run has nothing to show in it.
        """
        names = [known for known in catalog.QUESTIONS if known != "timeline"]
        if name not in names:
            raise ConfigError(f"{name}: no such figure; there are {', '.join(names)}")
        drawings = catalog.drawings(self.run_dir, self.table.manifest, self.history, self.title)
        if name not in drawings:
            raise ConfigError(f"{self.run_dir}: it has nothing to show of {name}; networks without kernels have no first layer")
        return drawings[name]().figure

    @property
    def title(self) -> str:
        return run_page.title(self.config, self.summary.dataset)


def read(run_dir: Path) -> FinishedRun | None:
    """The run of a folder, or None when it is not the folder of a finished run."""
    try:
        found = summary.read(run_dir / layout.SUMMARY_FILE)
        # The address of the tracking server may be masked, and nothing here needs it.
        return FinishedRun(run_dir, loader.load(run_dir / layout.CONFIG_FILE, ["tracking.uri="]), found)
    except (OSError, ValueError, ConfigError):
        # Settings come and go with versions; a run of another one cannot be read.
        return None


def newest(runs: Path, accept: Callable[[FinishedRun], bool] = lambda run: True) -> FinishedRun | None:
    """The finished run that began last among those that are accepted, or None.

    Args:
        runs: the folder that holds the folders of runs.
        accept: decides on each, the newest first.
    """
    folders = sorted(runs.glob(f"*/{layout.SUMMARY_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = (read(path.parent) for path in folders)
    return next((run for run in found if run is not None and accept(run)), None)
