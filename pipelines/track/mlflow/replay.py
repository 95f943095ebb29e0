"""Complete a run in MLflow from its folder, after the tracking server was down, slow, full, or lost.

Doing it twice is the same as once, and a run that is complete is left as it is.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError, ConvoyError
from pipelines.system import writeback
from pipelines.system.secrets import MASK, mask_value, remember
from pipelines.track.mlflow.follower import MlflowSync, default_tracking_uri
from pipelines.track.mlflow.journal import Journal
from pipelines.track.rundir import layout

_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Replay:
    """What a replay did."""

    tracking_uri: str
    """Without credentials."""
    run_id: str
    model_uri: str
    entries: int
    """Handed over now."""
    refusals: tuple[str, ...]
    """What the server does not accept, one line each."""


def replay(run_dir: Path, tracking_uri: str = "") -> Replay:
    """Hand over what the tracking server lacks.

    Args:
        run_dir: the folder of a run.
        tracking_uri: another server than the run was recorded for; by default that one.

    Raises:
        ConfigError: the server's address was kept without its credentials and is not in MLFLOW_TRACKING_URI either.
        ConvoyError: there is no journal, it names files outside the run folder, the job is still running, or the server does not
            take everything.
    """
    remember(tracking_uri)
    try:
        return _replay(run_dir, tracking_uri)
    finally:
        with contextlib.suppress(OSError):
            writeback.close(run_dir)


def _replay(run_dir: Path, tracking_uri: str) -> Replay:
    journal = Journal.of(run_dir)
    with journal.exclusive() as mine:
        if not mine:
            raise ConvoyError(f"{run_dir}: its job is still running and records it; wait for its end")
        # Read again: another replay may have ended since.
        journal = Journal.of(run_dir)
        uri = tracking_uri or _recorded_uri(journal, run_dir)
        if mask_value(uri) != journal.accepted.tracking_uri:
            journal.accepted.entries.clear()
        journal.retry_refused()
        for entry in journal.pending():
            # A run folder is data, too: what it names is uploaded.
            if entry.action in ("artifact", "model"):
                layout.inside(run_dir, str(entry.values["path"]))
        waiting = len(journal.pending())
        follower = MlflowSync(journal, uri)
        for attempt in range(_ATTEMPTS):
            if follower.catch_up():
                break
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE_SECONDS)
        left = len(journal.pending())
        if left:
            raise ConvoyError(
                f"{run_dir}: {left} of {waiting} entries could not be handed to MLflow at {mask_value(uri)} "
                f"({follower.trouble}); run the same command again when the server is well"
            )
    accepted = journal.accepted
    return Replay(mask_value(uri), accepted.run_id, accepted.model_uri, waiting - len(accepted.refused), tuple(follower.refusals))


def with_trials(run_dir: Path) -> list[Path]:
    """The folder of a run, and behind it those of its trials where it is a sweep."""
    return [run_dir, *sorted(journal.parents[1] for journal in run_dir.glob(f"{layout.TRIALS_FOLDER}/*/tracking/journal.jsonl"))]


def _recorded_uri(journal: Journal, run_dir: Path) -> str:
    entry = next(entry for entry in journal.entries() if entry.action == "open")
    recorded = str(entry.values["tracking_uri"])
    if MASK not in recorded:
        return recorded
    # Where the address came from the environment it is still there.
    uri = default_tracking_uri(TrackingConfig())
    if mask_value(uri) != recorded:
        raise ConfigError(f"{run_dir}: recorded for {recorded}, kept without credentials; give it whole with --to")
    return uri
