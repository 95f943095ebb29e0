"""A finished run, read from its folder: settings, results and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import Config, loader
from pipelines.data.table import schema
from pipelines.data.table.schema import Table
from pipelines.errors import ConfigError, ConvoyError
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
        """Events of all ranks, by time."""
        events = SpoolReader(self.run_dir / layout.SPOOL_FOLDER).new_events()
        return tuple(sorted(events, key=lambda event: event.time))

    @cached_property
    def history(self) -> tuple[Mapping[str, float], ...]:
        """Metrics of each epoch."""
        ends = [event.values for event in self.events if isinstance(event.values, EpochEnd) and event.rank == 0]
        # A restarted training repeats epochs; the last report counts.
        last = {end.epoch: end.metrics for end in ends}
        return tuple(last[epoch] for epoch in sorted(last))

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last epoch and of the test: `{"train/loss": ..., "test/accuracy": ...}`."""
        test = self.summary.test
        tested = (
            {f"test/{name}": value for name, value in {**test.metrics, "loss": test.loss}.items()} if test is not None else {}
        )
        return {**(self.history[-1] if self.history else {}), **tested}

    @property
    def model_uri(self) -> str:
        """The logged model, or its folder in the run's if the tracking server has not taken it yet."""
        return self.summary.model_uri or str(self.run_dir / layout.MODEL_FOLDER)

    @cached_property
    def table(self) -> Table:
        """The table it was trained on. Raises ConfigError if that no longer exists."""
        uri = self.summary.table
        manifest = schema.read_manifest(paths.to_python(uri))
        if manifest is None:
            raise ConfigError(f"table {uri}: no longer exists; train again")
        return Table(uri, manifest)

    @cached_property
    def predictions(self) -> Predictions:
        """Predictions for the test rows. Raises ConfigError if they were not stored."""
        try:
            return figure_data.load_predictions(self.run_dir)
        except FileNotFoundError as error:
            raise ConfigError(f"{self.run_dir}: its predictions were not stored; train again") from error

    def figure(self, name: str) -> "Figure":
        """Draw a figure.

        Args:
            name: one of `pipelines.track.figures.catalog.questions`, except timeline.

        Raises:
            ConfigError: there is no such figure, or the run has no data for it.
        """
        names = [name for name in catalog.questions(self.config.data.task) if name != "timeline"]
        if name not in names:
            raise ConfigError(f"{name}: no such figure; there are {', '.join(names)}")
        drawings = catalog.drawings(self.run_dir, self.table.manifest, self.history, self.title)
        if name not in drawings:
            raise ConfigError(f"{self.run_dir}: no data for {name}; networks without convolutions have no first_layer")
        return drawings[name]().figure

    @property
    def title(self) -> str:
        return run_page.title(self.config, self.summary.dataset)


def read(run_dir: Path) -> FinishedRun | None:
    """The run of a folder, or None if that is not the folder of a finished run."""
    try:
        # The address of the tracking server may be masked, and nothing here needs it.
        config = loader.load(run_dir / layout.CONFIG_FILE, ["tracking.uri="])
        return FinishedRun(run_dir, config, summary.read(run_dir / layout.SUMMARY_FILE))
    except (OSError, ValueError, ConfigError):
        # A run of another version may have settings that this one does not know.
        return None


def just_ended(run_dir: Path) -> FinishedRun:
    """The run of a training that this process has just finished."""
    run = read(run_dir)
    if run is None:
        raise ConvoyError(f"{run_dir}: the run that has just ended cannot be read; this is a bug")
    return run


def newest(runs: Path, accept: Callable[[FinishedRun], bool] = lambda run: True) -> FinishedRun | None:
    """The most recently finished run that is accepted, or None.

    Args:
        runs: parent of the run folders.
        accept: called for each finished run, the newest first.
    """
    folders = sorted(runs.glob(f"*/{layout.SUMMARY_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    candidates = (read(path.parent) for path in folders)
    return next((run for run in candidates if run is not None and accept(run)), None)
