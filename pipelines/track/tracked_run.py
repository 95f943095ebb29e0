"""The run of a job, owned by the driver.

Every method puts its action into the journal of the run folder and returns at once. A background thread hands the journal to
MLflow, so importing MLflow, setting up its store and a slow or dead server cost training nothing, and lose nothing.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from pipelines.track.mlflow.follower import MlflowSync, default_tracking_uri
from pipelines.track.mlflow.journal import Journal, new_key
from pipelines.track.mlflow.replay import replay

Status = Literal["FINISHED", "FAILED", "KILLED"]
_CONTEXTS: dict[Split, str] = {"train": "training", "validation": "validation", "test": "testing"}
# An interrupted job has to end within 10 seconds, of which cancelling its tasks can take a few.
_KILLED_SECONDS = 4.0
# A finished job waits no longer for a server that has never answered.
_SILENT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
# Training computes on all cores, so it pays for what the thread computes. What comes while it rests is sent together.
_LARGEST_SHARE = 0.01
_LONGEST_REST_SECONDS = 10.0
_ERROR_LENGTH = 500
_log = logging.getLogger(__name__)


class EndedEarly(Exception):
    """A training was ended because it promised too little, which is no failure. The message says when."""


def status_of(error: BaseException | None) -> Status:
    """The status of a run whose work ended with this exception, or with none."""
    if error is None or isinstance(error, EndedEarly):
        return "FINISHED"
    return "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED"


class TrackedRun:
    """One run, as a context manager that ends it as its block ends (`status_of`).

    Methods return at once; the end waits for the background thread, within limits.
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
        """Begin the run of a run folder, or go on with it where the folder has a journal.

        Args:
            tracking: where to.
            run_name: for people.
            run_dir: receives the journal; figures and models lie in it.
            reporter: receives warnings at the end of the block, such as what the tracking server lacks.
            parent: the folder of the run that MLflow is to show this one below, for a new run.
            patience_seconds: how long MLflow may be left out, unless `hand_over` or `finish` is called before. Its import takes
                a core for some seconds.
        """
        self.warnings: list[str] = []
        self._reporter = reporter if reporter is not None else NullReporter()
        self._finish_timeout = tracking.finish_timeout_seconds
        self._tracking_uri = default_tracking_uri(tracking)
        self._journal = Journal(run_dir)
        continued = bool(self._journal.entries())
        if not continued:
            opening = {"experiment": tracking.experiment, "name": run_name, "key": new_key(), "tracking_uri": self._tracking_uri}
            if parent is not None:
                opening["parent"] = os.path.relpath(parent, run_dir)
            self._journal.append("open", opening)
        self._follower = MlflowSync(self._journal, self._tracking_uri)
        if not continued:
            # Nothing has been sent yet, so nothing can have been done.
            self._follower.forget_doubts()
        if continued:
            self._journal.append("status", {"status": "RUNNING"})
        self._left_behind: list[Path] = []
        self._news = threading.Event()
        self._closing = threading.Event()
        self._handing_over = threading.Event()
        self._patience_seconds = patience_seconds
        # Each time that MLflow was handed something: since when, until when (seconds since the Unix epoch), seconds of a core.
        self._computed: list[tuple[float, float, float]] = []
        self._drawings: list[Future[None]] = []
        self._drawer = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)
        self._thread.start()

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
        """Without credentials: it is shown and kept."""
        return mask_value(self._tracking_uri)

    @property
    def run_id(self) -> str:
        """Empty until the server has taken the run."""
        return self._journal.accepted.run_id

    @property
    def model_uri(self) -> str:
        """Empty until the server has taken the model."""
        return self._journal.accepted.model_uri

    def processor_seconds(self, since: float, until: float) -> float:
        """What handing this run to MLflow took of one core between two times, in seconds since the Unix epoch."""
        shares = [
            computed * max(0.0, min(stop, until) - max(start, since)) / (stop - start)
            for start, stop, computed in list(self._computed)
            if stop > start
        ]
        return sum(shares)

    def settings(self, parameters: Mapping[str, str], config_yaml: str) -> None:
        """Parameters for searching, and the file that repeats the run."""
        self.parameters(parameters)
        self._keep("config.yml", config_yaml)

    def parameters(self, parameters: Mapping[str, str]) -> None:
        """Each may be set once."""
        self._record("params", parameters)

    def tags(self, tags: Mapping[str, str]) -> None:
        self._record("tags", tags)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._record("metrics", {"step": step, "values": {key: float(value) for key, value in values.items()}})

    def recorded_steps(self, *metrics: str) -> set[int]:
        """The steps at which this run has one of these metrics, including those of earlier jobs."""
        return {
            entry.values["step"]
            for entry in self._journal.entries()
            if entry.action == "metrics" and not entry.values["values"].keys().isdisjoint(metrics)
        }

    def dataset(self, table: Table) -> None:
        """The table as input of the run, one entry a split, and its manifest as an artifact."""
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
        """Drawn on a background thread and kept as figures/NAME.png with its numbers in figures/NAME.csv."""

        def keep() -> None:
            try:
                drawing = draw()
                self._keep(f"figures/{name}.png", drawing.png())
                self._keep(f"figures/{name}.csv", drawing.csv())
            except Exception as error:
                _log.warning("figure %s could not be drawn", name, exc_info=error)
                self.warnings.append(mask(f"figure {name} could not be drawn ({type(error).__name__}: {error})"))

        self._drawings.append(self._drawer.submit(keep))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file as it is when the server gets to it; `folder` is its place among the run's artifacts."""
        try:
            inside = path.absolute().relative_to(self._journal.run_dir.absolute())
        except ValueError:
            # From outside the run folder: copied, so that a replay finds it.
            self._keep(f"{folder}/{path.name}" if folder else path.name, path.read_bytes())
        else:
            self._record("artifact", {"path": str(inside), "folder": folder})

    def text(self, content: str, artifact: str) -> None:
        """Keep a text as an artifact of the run."""
        self._keep(artifact, content)

    def model(self, folder: Path) -> None:
        """Log a saved model folder, which lies in the run folder; sets `model_uri`."""
        self._record("model", {"path": str(folder.absolute().relative_to(self._journal.run_dir.absolute()))})

    def also_end(self, run_dirs: Sequence[Path]) -> None:
        """Hand over the journals of other runs, whose drivers are gone, when this run leaves time for it."""
        self._left_behind.extend(run_dirs)
        self._news.set()

    def hand_over(self) -> None:
        """Give MLflow the run from now on."""
        self._handing_over.set()

    def finish(self, status: Status) -> None:
        """End the run. Waits for the server at most `tracking.finish_timeout_seconds`; what is left then is a warning."""
        self._drawer.shutdown(wait=True)
        self._record("status", {"status": status})
        self._closing.set()
        self._handing_over.set()
        self._news.set()
        limit = min(self._finish_timeout, _KILLED_SECONDS) if status == "KILLED" else self._finish_timeout
        started = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - started < limit:
            if self._follower.silent_seconds > _SILENT_SECONDS:
                break
            self._thread.join(0.1)
        try:
            writeback.stage_of(self._journal.run_dir).publish()
        except OSError as error:
            self._journal.problem = f"{error.filename or self._journal.run_dir}: cannot be written ({error.strerror})"
        self.warnings += [f"MLflow at {self.tracking_uri}: {line}" for line in self._follower.refusals]
        left = len(self._journal.pending())
        if self._journal.problem:
            self.warnings.append(f"{self._journal.problem}; what MLflow lacks of this run cannot be replayed")
        elif left:
            why = self._follower.trouble or f"no answer within {time.monotonic() - started:.0f} s"
            lacks = f"MLflow at {self.tracking_uri} lacks {left} entries of this run ({why})"
            self.warnings.append(f"{lacks}; to complete it: ./convoy replay {paths.display(self._journal.run_dir)}")
        for run_dir in list(self._left_behind):
            self.warnings.append(f"MLflow has not been told of the end of another run; ./convoy replay {paths.display(run_dir)}")

    def _record(self, action: Any, values: Mapping[str, Any]) -> None:
        self._journal.append(action, values)
        self._news.set()

    def _keep(self, artifact: str, content: str | bytes) -> None:
        try:
            path = self._journal.file(artifact, content)
        except OSError as error:
            self.warnings.append(f"{artifact} could not be kept in {self._journal.run_dir} ({error.strerror})")
            return
        self._record("artifact", {"path": path, "folder": str(Path(artifact).parent) if "/" in artifact else ""})

    def _follow(self) -> None:
        self._handing_over.wait(self._patience_seconds)
        with self._journal.exclusive() as mine:
            if not mine:
                self._follower.trouble = "another process is recording this run"
                return
            pause = _FIRST_PAUSE_SECONDS
            while True:
                self._news.clear()
                closing = self._closing.is_set()
                began, computed = time.time(), time.thread_time()
                done = self._follower.catch_up()
                computed = time.thread_time() - computed
                self._computed.append((began, time.time(), computed))
                if done and self._left_behind:
                    self._end_one_left_behind()
                elif closing:
                    return
                elif done:
                    pause = _FIRST_PAUSE_SECONDS
                    self._closing.wait(min(computed / _LARGEST_SHARE, _LONGEST_REST_SECONDS))
                    self._news.wait()
                else:
                    self._closing.wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _end_one_left_behind(self) -> None:
        run_dir = self._left_behind[0]
        try:
            replay(run_dir)
        except ConvoyError as error:
            self.warnings.append(str(error))
        except Exception as error:
            _log.warning("%s could not be replayed", run_dir, exc_info=error)
            self.warnings.append(f"{run_dir}: its end could not be recorded ({type(error).__name__})")
        self._left_behind.remove(run_dir)
