"""Complete a run in MLflow from its folder, after the tracking server was down, slow, full, or lost.

Asks the server for everything that it once accepted, too, so that a run is complete after a loss of its data. Idempotent: a
complete run is left unchanged.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError, ConvoyError
from pipelines.system import writeback
from pipelines.system.secrets import MASK, mask_value, remember
from pipelines.track.mlflow.follower import MlflowSync, checked_uri, default_tracking_uri
from pipelines.track.mlflow.journal import FOLDER, Journal
from pipelines.track.rundir import layout

_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Replay:
    """Result of a replay."""

    tracking_uri: str
    """Without credentials."""
    run_id: str
    model_uri: str
    entries: int
    """Number of entries sent."""
    refusals: tuple[str, ...]
    """Values that the server rejected, one line each."""
    damaged: tuple[str, ...]
    """Entries of the journal that are not as they were written, which were not sent."""
    forgotten: tuple[str, ...]
    """Acceptances that are not as they were written, whose entries were sent again."""


def replay(run_dir: Path, tracking_uri: str = "") -> Replay:
    """Send what the tracking server lacks.

    Args:
        run_dir: run folder.
        tracking_uri: the server; by default the one the run was recorded for.

    Raises:
        ConfigError: the server's address was stored without its credentials, and MLFLOW_TRACKING_URI does not have them.
        ConvoyError: there is no journal, it names files outside the run folder, the job is still running, or the server did not
            take everything.
    """
    remember(tracking_uri)
    try:
        return _replay(run_dir, tracking_uri)
    finally:
        with contextlib.suppress(OSError):
            writeback.close(run_dir)


def _replay(run_dir: Path, tracking_uri: str) -> Replay:
    # A run folder is input, too: a link in it must lead neither its lock nor its records elsewhere.
    layout.inside(run_dir, FOLDER)
    journal = Journal.of(run_dir)
    with journal.exclusive() as acquired:
        if not acquired:
            raise ConvoyError(f"{run_dir}: its job is still running; wait for its end")
        # Read again: another replay may have finished meanwhile.
        journal = Journal.of(run_dir)
        uri = checked_uri(tracking_uri or _recorded_uri(journal, run_dir))
        if mask_value(uri) != journal.accepted.tracking_uri:
            journal.accepted.entries.clear()
        journal.retry_refused()
        for entry in journal.entries():
            # The files that it names are uploaded.
            if entry.action in ("artifact", "model"):
                layout.inside(run_dir, str(entry.values["path"]))
        sync = MlflowSync(journal, uri)
        pending = _complete(sync, run_dir)
    accepted = journal.accepted
    return Replay(
        tracking_uri=mask_value(uri),
        run_id=accepted.run_id,
        model_uri=accepted.model_uri,
        entries=pending - len(accepted.refused),
        refusals=tuple(sync.refusals),
        damaged=tuple(journal.damaged),
        forgotten=tuple(journal.forgotten),
    )


def _complete(sync: MlflowSync, run_dir: Path) -> int:
    """Send what the server lacks. Returns the number of entries that were pending."""
    pending = 0
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        if sync.recheck():
            pending = max(pending, len(sync.journal.pending()))
            if sync.catch_up():
                return pending
    missing = len(sync.journal.pending())
    problem = f"{missing} of {max(pending, missing)} entries could not be sent" if missing else "could not be compared"
    server = f"{'to' if missing else 'with'} MLflow at {mask_value(sync.tracking_uri)}"
    raise ConvoyError(f"{run_dir}: {problem} {server} ({sync.trouble}); run the same command again when the server works")


def with_trials(run_dir: Path) -> list[Path]:
    """A run folder, followed by those of its trials if it is a sweep."""
    return [run_dir, *sorted(journal.parents[1] for journal in run_dir.glob(f"{layout.TRIALS_FOLDER}/*/tracking/journal.jsonl"))]


def _recorded_uri(journal: Journal, run_dir: Path) -> str:
    entry = next(entry for entry in journal.entries() if entry.action == "open")
    recorded = str(entry.values["tracking_uri"])
    if MASK not in recorded:
        return recorded
    # The address may come from the environment.
    uri = default_tracking_uri(TrackingConfig())
    if mask_value(uri) != recorded:
        raise ConfigError(f"{run_dir}: recorded for {recorded}, stored without credentials; pass the full address with --to")
    return uri
