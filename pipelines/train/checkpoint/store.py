"""Checkpoints on disk. Needs numpy but not TensorFlow, so the driver reads them, too.

A checkpoint is two files in `RUN_DIR/checkpoints`: the arrays, a plain `.npz` that is read with `allow_pickle=False`, and a JSON
description with the name, size and SHA-256 of the arrays' file, and a SHA-256 of itself. Each file is written under a temporary
name, flushed to disk, and renamed; the description comes last. A checkpoint without a description does not exist.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import CheckpointError
from pipelines.system import atomic
from pipelines.system.fingerprint import fingerprint, json_sha256
from pipelines.track.rundir.layout import CHECKPOINT_FOLDER

FORMAT_VERSION = 1
Arrays = dict[str, npt.NDArray[Any]]

_NAME = re.compile(r"epoch-(\d{6})-step-(\d{8})\.json")
_ASIDE = "set-aside"


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything about a training except its arrays. Plain data."""

    epoch: int
    """Number of complete epochs."""
    step: int
    """Number of complete steps of the next epoch; more than 0 if it was written inside an epoch."""
    steps_per_epoch: int
    workers: int
    batch_size_per_worker: int
    learning_rate: float
    """Learning rate at this point of the schedule."""
    network: str
    optimizer: str
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the weights, in the network's order."""
    table_key: str
    """The `key` of the table's manifest."""
    settings: dict[str, Any]
    """`Config.flat()` without the section `tracking`."""
    history: tuple[dict[str, float], ...]
    """The metrics of each complete epoch."""
    best_epoch: int
    best_loss: float | None
    dropout_calls: tuple[int, ...]
    """Calls of each of the network's random generators since the start of the epoch; the same on all ranks."""
    weights_sha256: str

    @property
    def shards(self) -> int:
        """Shards of training rows: `training.canonical_shards`, or as many as workers."""
        return int(self.settings.get("training.canonical_shards", 0)) or self.workers

    @property
    def position(self) -> str:
        """Position for display: `epoch 3`, or `epoch 3, step 17`."""
        return f"epoch {self.epoch}, step {self.step}" if self.step else f"epoch {self.epoch}"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    """The description file."""
    arrays_path: Path
    state: State


def write(run_dir: Path, state: State, arrays: Arrays, keep: int) -> Path:
    """Write a checkpoint, and remove all but the newest `keep`.

    Args:
        run_dir: the run folder.
        state: description of the training.
        arrays: any dtype that numpy stores without pickle. Floating-point values must be finite.
        keep: number of checkpoints to keep.

    Returns:
        path of the description file.

    Raises:
        CheckpointError: a value is not finite, or the checkpoint cannot be written. Earlier checkpoints are unchanged.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"{name} holds values that are not finite at {state.position}; no checkpoint was written")
    folder = run_dir / CHECKPOINT_FOLDER
    description = folder / f"epoch-{state.epoch:06d}-step-{state.step:08d}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{description.stem}.{os.getpid()}.npz"
        with unfinished.open("wb") as file:
            np.savez(atomic.Sequential(file), **arrays)  # type: ignore[arg-type, unused-ignore]
            atomic.flush_to_disk(file)
        written = fingerprint(unfinished)
        # Named by content, so that a checkpoint that is written again is complete at all times.
        data = folder / f"{description.stem}-{written.sha256[:12]}.npz"
        atomic.replace(unfinished, data)
        payload = {
            "format_version": FORMAT_VERSION,
            "state": dataclasses.asdict(state),
            "data": {"file": data.name, "sha256": written.sha256, "num_bytes": written.num_bytes},
        }
        _write_text(description, json.dumps({"sha256": json_sha256(payload), "payload": payload}, indent=1))
        _prune(folder, keep)
    except OSError as error:
        raise CheckpointError(
            f"{description}: the checkpoint cannot be written ({error.strerror}); free space or permissions there, or set "
            "checkpoint.every_epochs=0 to train without"
        ) from error
    return description


def available(run_dir: Path) -> list[Path]:
    """Description files of all checkpoints of a run, newest first, without checking them."""
    paths = [path for path in (run_dir / CHECKPOINT_FOLDER).glob("epoch-*.json") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: path.name, reverse=True)


def newest(run_dir: Path, report: Callable[[str], None] | None = None, not_after: Path | None = None) -> Checkpoint | None:
    """The newest checkpoint of a run that is intact; None if there is none.

    Args:
        run_dir: the run folder.
        report: called with a message for each newer checkpoint that was skipped because it is damaged.
        not_after: description file; newer checkpoints are ignored.
    """
    for path in available(run_dir):
        if not_after is not None and path.name > not_after.name:
            continue
        try:
            return verify(path)
        except CheckpointError as error:
            if report is not None:
                report(f"{error}; going back to the checkpoint before it")
    return None


def verify(path: Path) -> Checkpoint:
    """Check a checkpoint's files against their checksums.

    Args:
        path: the description file.

    Raises:
        CheckpointError: a file is missing, damaged, or of another format version.
    """
    state, data, sha256 = _describe(path)
    try:
        digest = fingerprint(data).sha256
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: {data.name} cannot be read ({error.strerror})") from error
    if digest != sha256:
        raise CheckpointError(f"checkpoint {path}: {data.name} is damaged (its SHA-256 differs from the recorded one)")
    return Checkpoint(path, data, state)


def read_arrays(checkpoint: Checkpoint) -> Arrays:
    """The arrays of a checkpoint that `verify` has checked.

    Raises:
        CheckpointError: the file cannot be read.
    """
    data = checkpoint.arrays_path
    try:
        with np.load(data, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.path}: {data.name} cannot be read ({error})") from error


def set_aside_after(run_dir: Path, chosen: Path) -> list[Path]:
    """Move checkpoints newer than `chosen` into a subfolder: resuming from `chosen` abandons that part of the training."""
    newer = [path for path in available(run_dir) if path.parent == chosen.parent and path.name > chosen.name]
    aside = run_dir / CHECKPOINT_FOLDER / _ASIDE
    for path in newer:
        aside.mkdir(exist_ok=True)
        for data in path.parent.glob(f"{path.stem}-*.npz"):
            atomic.replace(data, aside / data.name)
        atomic.replace(path, aside / path.name)
    return newer


def put_back(moved: Sequence[Path]) -> None:
    """Undo `set_aside_after`, which returned these paths."""
    for path in moved:
        aside = path.parent / _ASIDE
        for data in aside.glob(f"{path.stem}-*.npz"):
            atomic.replace(data, path.parent / data.name)
        atomic.replace(aside / path.name, path)


def _describe(path: Path) -> tuple[State, Path, str]:
    """State, path of the arrays, and their recorded SHA-256."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        payload: dict[str, Any] = description["payload"]
        recorded = description["sha256"]
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path}: damaged (not a description of a checkpoint)") from error
    if json_sha256(payload) != recorded:
        raise CheckpointError(f"checkpoint {path}: damaged (its SHA-256 differs from the recorded one)")
    if payload["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path}: has format version {payload['format_version']}, this program reads {FORMAT_VERSION}"
        )
    raw = payload["state"]
    for name in ("shapes", "history", "dropout_calls"):
        raw[name] = tuple(tuple(item) if isinstance(item, list) else item for item in raw[name])
    return State(**raw), path.parent / Path(payload["data"]["file"]).name, payload["data"]["sha256"]


def _prune(folder: Path, keep: int) -> None:
    for path in available(folder.parent)[keep:]:
        path.unlink()
    kept = {_data_name(path) for path in available(folder.parent)}
    for data in folder.glob("epoch-*.npz"):
        if data.name not in kept:
            data.unlink()
    # Leftovers of a writer that was killed.
    for unfinished in folder.glob(".epoch-*"):
        unfinished.unlink()


def _data_name(path: Path) -> str:
    try:
        return _describe(path)[1].name
    except CheckpointError:
        return ""


def _write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.json")
    with unfinished.open("wb") as file:
        file.write(text.encode())
        atomic.flush_to_disk(file)
    atomic.replace(unfinished, path)
