"""The folder of a run: its contents, how a new one is created and how an existing one is found."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError, ConvoyError, DataError, LaunchError
from pipelines.system import atomic, checked_lines
from pipelines.system.secrets import mask_value

SPOOL_FOLDER = "spool"
MODEL_FOLDER = "model"
LOG_FOLDER = "logs"
CHECKPOINT_FOLDER = "checkpoints"
ATTEMPT_FOLDER = "attempts"
# The user's code, as the driver read it.
CODE_FOLDER = "code"
# The file of `model.weights`.
WEIGHTS_FOLDER = "initial_weights"
TENSORBOARD_FOLDER = "tensorboard"
CONFIG_FILE = "config.yml"
# Only in the folder of a finished run.
SUMMARY_FILE = "summary.json"
MERGED_LOG = "run.log"
SYMPTOMS_FILE = "symptoms.jsonl"
# Only in the folder of a sweep.
SWEEP_FILE = "sweep.yml"
TRIALS_FOLDER = "trials"
_RECORD_FILE = "run.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """Which MLflow run a folder belongs to."""

    run_id: str
    tracking_uri: str


def make(runs: Path, name: str) -> Path:
    """Create a folder `TIME-NAME`, with a number appended if that exists. Characters unfit for a file name become hyphens.

    Raises:
        LaunchError: it cannot be created.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    # A slash would create a subfolder.
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in mask_value(name))
    for attempt in range(100):
        folder = runs / (f"{stamp}-{name}" + (f"-{attempt}" if attempt else ""))
        try:
            (folder / LOG_FOLDER).mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise LaunchError(
                f"{folder}: cannot be created ({error.strerror}); set launch.runs_uri to a writable folder"
            ) from error
    raise LaunchError(f"{runs}: no folder name left for this second; set launch.runs_uri to another folder")


def attempts(run_dir: Path) -> int:
    """Number of times the workers of this run have been started."""
    return sum(1 for _ in (run_dir / ATTEMPT_FOLDER).glob("*"))


def new_attempt(run_dir: Path) -> Path:
    """Create a folder for one start of the workers, numbered from 1. A number is not used again if an earlier folder is gone."""
    numbers = [int(path.name) for path in (run_dir / ATTEMPT_FOLDER).glob("*") if path.name.isdigit()]
    folder = run_dir / ATTEMPT_FOLDER / f"{1 + max(numbers, default=0):03d}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise LaunchError(
            f"{folder}: cannot be created ({error.strerror}); free space or permissions there, or set launch.runs_uri"
        ) from error
    return folder


def inside(run_dir: Path, name: str) -> Path:
    """Path of a file or folder of the run folder.

    Args:
        run_dir: the run folder.
        name: relative path, as a record of the run holds it.

    Raises:
        ConvoyError: it leads out of the run folder, or a link in it does.
    """
    root, path = run_dir.resolve(), run_dir / name
    for each in (path, *(found for found in path.rglob("*") if found.is_symlink())):
        if not each.resolve().is_relative_to(root):
            shown = name if each == path else str(each.relative_to(run_dir))
            raise ConvoyError(
                f"{run_dir}: its record names {shown}, which leads out of the run folder; copy what it needs into it"
            )
    return path


def write_record(run_dir: Path, record: RunRecord) -> None:
    content = checked_lines.encode({"run_id": record.run_id, "tracking_uri": record.tracking_uri})
    atomic.write(run_dir / _RECORD_FILE, content, private=True)


def read_record(run_dir: Path) -> RunRecord | None:
    """None if the run was never created on a tracking server, or if the record is damaged."""
    try:
        raw = checked_lines.decode((run_dir / _RECORD_FILE).read_bytes().strip())
        return RunRecord(run_id=str(raw["run_id"]), tracking_uri=str(raw["tracking_uri"])) if raw is not None else None
    except (OSError, KeyError):
        return None
    except DataError as error:
        _log.warning("%s %s", run_dir / _RECORD_FILE, error)
        return None


def find(runs: Path, identifier: str, path: Path) -> Path:
    """Find the folder of the run to resume.

    Args:
        runs: parent of the run folders.
        identifier: the user's input: `latest`, the id of an MLflow run, or a path.
        path: `identifier` as a path: a run folder, its folder of checkpoints, or a checkpoint in it.

    Raises:
        ConfigError: there is no such run.
    """
    if identifier == "latest":
        resumable = [folder for folder in _folders(runs) if any((folder / CHECKPOINT_FOLDER).glob("epoch-*.json"))]
        if not resumable:
            raise ConfigError(f"--resume latest: no run below {runs} has a checkpoint; launch.runs_uri names the folder of runs")
        return max(resumable, key=_last_checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        if path.exists() and (folder / CONFIG_FILE).is_file():
            return folder
    for folder in _folders(runs):
        record = read_record(folder)
        if record is not None and record.run_id == identifier:
            if (folder / SWEEP_FILE).exists():
                raise ConfigError(f"--resume {identifier}: is a sweep; resume it with ./convoy sweep --resume {identifier}")
            return folder
    raise ConfigError(
        f"--resume {identifier}: neither the id of a run below {runs} nor a run's folder nor a checkpoint; "
        "'latest' takes the newest run"
    )


def find_sweep(runs: Path, identifier: str, path: Path) -> Path:
    """Find the folder of the sweep to resume. Arguments as for `find`; a path is that of its folder.

    Raises:
        ConfigError: there is no such sweep.
    """
    sweeps = [folder for folder in _folders(runs) if (folder / SWEEP_FILE).is_file()]
    if identifier == "latest" and sweeps:
        return max(sweeps, key=lambda folder: (folder / SWEEP_FILE).stat().st_mtime)
    if (path / SWEEP_FILE).is_file():
        return path
    for folder in sweeps:
        record = read_record(folder)
        if record is not None and record.run_id == identifier:
            return folder
    raise ConfigError(f"--resume {identifier}: no such sweep below {runs}; name its run, its folder, or 'latest' for the newest")


def _last_checkpoint(run_dir: Path) -> float:
    # Mounts of object stores have no modification time for folders.
    return max(path.stat().st_mtime for path in (run_dir / CHECKPOINT_FOLDER).glob("epoch-*.json"))


def _folders(runs: Path) -> list[Path]:
    return [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
