"""The MLflow run of a job, on the driver.

Every method appends its action to the journal in the run folder and returns at once. A background thread sends the journal to
MLflow, so importing MLflow, migrating its store and a slow or dead server neither delay training nor lose data.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pipelines.config import TrackingConfig
from pipelines.data.table.schema import MANIFEST_NAME, Split, Table
from pipelines.errors import ConvoyError, Interrupted
from pipelines.system import paths, writeback
from pipelines.system.reporter import NullReporter, Reporter
from pipelines.system.secrets import mask, mask_value
from pipelines.track.figures.style import Drawing
from pipelines.track.mlflow.follower import default_tracking_uri
from pipelines.track.mlflow.journal import Journal, new_key
from pipelines.track.mlflow.sender import JournalSender

Status = Literal["FINISHED", "FAILED", "KILLED"]
_CONTEXTS: dict[Split, str] = {"train": "training", "validation": "validation", "test": "testing"}
# An interrupted job must end within 10 seconds, and cancelling its tasks can take a few of them.
_KILLED_SECONDS = 4.0
_ERROR_LENGTH = 500
_log = logging.getLogger(__name__)


class EndedEarly(Exception):
    """A training was pruned, which is no failure. The message says when."""


def status_of(error: BaseException | None) -> Status:
    """Status of a run whose work ended with `error`, or normally if that is None."""
    if error is None or isinstance(error, EndedEarly):
        return "FINISHED"
    return "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED"


class TrackedRun:
    """A run. As a context manager it ends with the status of its block (`status_of`).

    Methods return at once; only the end waits for the background thread, for a limited time.
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        run_name: str,
        run_dir: Path,
        *,
        reporter: Reporter | None = None,
        parent: Path | None = None,
        patience_seconds: float = 0.0,
    ) -> None:
        """Start the run of a run folder, or continue it if the folder has a journal.

        Args:
            tracking: server and experiment.
            run_name: name of a new run.
            run_dir: receives the journal; contains the figures and models.
            reporter: receives warnings when the block ends, such as what the tracking server lacks.
            parent: run folder of the parent run, for a new run.
            patience_seconds: delay before MLflow is imported, unless `hand_over` or `finish` is called earlier. The import uses a
                core for several seconds.
        """
        self.warnings: list[str] = []
        self._reporter = reporter if reporter is not None else NullReporter()
        self._finish_timeout = tracking.finish_timeout_seconds
        self._tracking_uri = default_tracking_uri(tracking)
        self._journal = Journal(run_dir)
        entries = self._journal.entries()
        self._recorded = {
            (key, entry.values["step"]): value
            for entry in entries
            if entry.action == "metrics"
            for key, value in entry.values["values"].items()
        }
        continued = bool(entries)
        if not continued:
            opening = {"experiment": tracking.experiment, "name": run_name, "key": new_key(), "tracking_uri": self._tracking_uri}
            if parent is not None:
                opening["parent"] = os.path.relpath(parent, run_dir)
            self._journal.append("open", opening)
        else:
            self._journal.append("status", {"status": "RUNNING"})
        self._sender = JournalSender(self._journal, self._tracking_uri, patience_seconds, new=not continued)
        self._drawer = ThreadPoolExecutor(1, thread_name_prefix="figures")

    def __enter__(self) -> "TrackedRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, EndedEarly):
            self.tags({"pruned": str(error)})
        elif isinstance(error, ConvoyError):
            # A credential that is cut off would not be recognized as one.
            self.tags({"error": mask(str(error))[:_ERROR_LENGTH]})
        self.finish(status_of(error))
        for warning in self.warnings:
            self._reporter.warn(warning)
        run_dir = self._journal.run_dir
        try:
            writeback.close(run_dir)
        except OSError as lost:
            lack = "the end of its log and journal is missing there"
            self._reporter.warn(f"{lost.filename or run_dir}: cannot be written ({lost.strerror}); {lack}")

    @property
    def tracking_uri(self) -> str:
        """Without credentials, because it is printed and stored."""
        return mask_value(self._tracking_uri)

    @property
    def run_id(self) -> str:
        """Empty until the server has created the run."""
        return self._journal.accepted.run_id

    @property
    def model_uri(self) -> str:
        """Empty until the server has the model."""
        return self._journal.accepted.model_uri

    def processor_seconds(self, since: float, until: float) -> float:
        """CPU seconds spent on sending this run between two times in seconds since the Unix epoch."""
        return self._sender.processor_seconds(since, until)

    def settings(self, parameters: Mapping[str, str], config_yaml: str) -> None:
        """Log the parameters, for searching, and the file that reproduces the run."""
        self.parameters(parameters)
        self._keep("config.yml", config_yaml)

    def parameters(self, parameters: Mapping[str, str]) -> None:
        """Log parameters. Each may be set only once."""
        self._record("params", parameters)

    def tags(self, tags: Mapping[str, str]) -> None:
        self._record("tags", tags)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step. One that the run has there already, from before it was resumed or restarted, is left out."""
        new = {key: float(value) for key, value in values.items() if self._recorded.get((key, step)) != float(value)}
        self._recorded |= {(key, step): value for key, value in new.items()}
        if new:
            self._record("metrics", {"step": step, "values": new})

    def recorded_steps(self, *metrics: str) -> set[int]:
        """The steps at which this run has one of these metrics, including those of earlier jobs."""
        return {step for key, step in self._recorded if key in metrics}

    def dataset(self, table: Table) -> None:
        """Log the table as the input of the run, one entry per split, and its manifest as an artifact."""
        manifest = table.manifest
        datasets = [
            {
                "name": f"{manifest.dataset}-{split}",
                "digest": manifest.digest,
                "source": json.dumps({"uri": f"{table.uri}/split={split}"}),
                "profile": json.dumps({"rows": summary.rows, "rows_per_label": summary.rows_per_label}),
                "context": _CONTEXTS[split],
            }
            for split, summary in manifest.splits.items()
        ]
        self._record("inputs", {"datasets": datasets})
        self._keep(f"table/{MANIFEST_NAME.lstrip('_')}", manifest.to_json())

    def figure(self, draw: Callable[[], Drawing], name: str) -> None:
        """Draw a figure in the background and log it as figures/NAME.png, with its data as figures/NAME.csv."""

        def keep() -> None:
            try:
                drawing = draw()
                self._keep(f"figures/{name}.png", drawing.png())
                self._keep(f"figures/{name}.csv", drawing.csv())
            except Exception as error:
                _log.warning("figure %s could not be drawn", name, exc_info=error)
                self.warnings.append(mask(f"figure {name} could not be drawn ({type(error).__name__}: {error})"))

        self._drawer.submit(keep)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, as it is when it is sent, to `folder` among the run's artifacts."""
        try:
            relative = path.absolute().relative_to(self._journal.run_dir.absolute())
        except ValueError:
            # Outside the run folder. A replay needs the copy.
            self._keep(f"{folder}/{path.name}" if folder else path.name, path.read_bytes())
        else:
            self._record("artifact", {"path": str(relative), "folder": folder})

    def text(self, content: str, artifact: str) -> None:
        """Log a text as an artifact."""
        self._keep(artifact, content)

    def model(self, folder: Path) -> None:
        """Log a saved model, a folder within the run folder. Sets `model_uri`."""
        self._record("model", {"path": str(folder.absolute().relative_to(self._journal.run_dir.absolute()))})

    def also_end(self, run_dirs: Sequence[Path]) -> None:
        """Also send the journals of these runs, whose drivers are gone, when this run's is up to date."""
        self._sender.also_send(run_dirs)

    def hand_over(self) -> None:
        """Start sending now."""
        self._sender.hand_over()

    def finish(self, status: Status) -> None:
        """End the run. Waits at most `tracking.finish_timeout_seconds` for the server and adds what it lacks to `warnings`."""
        self._drawer.shutdown(wait=True)
        self._record("status", {"status": status})
        limit = min(self._finish_timeout, _KILLED_SECONDS) if status == "KILLED" else self._finish_timeout
        waited = self._sender.finish(limit)
        try:
            writeback.stage_of(self._journal.run_dir).publish()
        except OSError as error:
            self._journal.problem = f"{error.filename or self._journal.run_dir}: cannot be written ({error.strerror})"
        self.warnings += self._sender.warnings
        self.warnings += [f"MLflow at {self.tracking_uri}: {line}" for line in self._sender.refusals]
        missing = len(self._journal.pending())
        if self._journal.problem:
            self.warnings.append(f"{self._journal.problem}; what MLflow lacks of this run cannot be replayed")
        elif missing:
            reason = self._sender.trouble or f"no answer within {waited:.0f} s"
            lacks = f"MLflow at {self.tracking_uri} lacks {missing} entries of this run ({reason})"
            self.warnings.append(f"{lacks}; to complete it: ./convoy replay {paths.display(self._journal.run_dir)}")
        for run_dir in list(self._sender.orphans):
            self.warnings.append(f"MLflow lacks the end of another run; to complete it: ./convoy replay {paths.display(run_dir)}")

    def _record(self, action: Any, values: Mapping[str, Any]) -> None:
        self._journal.append(action, values)
        self._sender.wake()

    def _keep(self, artifact: str, content: str | bytes) -> None:
        try:
            path = self._journal.file(artifact, content)
        except OSError as error:
            self.warnings.append(f"{artifact} could not be written to {self._journal.run_dir} ({error.strerror})")
            return
        self._record("artifact", {"path": path, "folder": str(Path(artifact).parent) if "/" in artifact else ""})
