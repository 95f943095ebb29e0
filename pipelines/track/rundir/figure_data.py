"""Arrays that ranks write to the run folder for the figures, which the driver draws without TensorFlow.

RUN_DIR/evidence/test-rank-K.npz     each rank's test predictions, and its most confident mistakes as pictures
RUN_DIR/evidence/first_layer.npz     kernels of the first convolution and its feature maps of a few images
RUN_DIR/evidence/examples.npz        a training batch after augmentation
"""

import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.system import atomic

FOLDER = "evidence"
FIRST_LAYER = "first_layer"
EXAMPLES = "examples"

# Limit for all ranks together: 200 MB. Rows of a test split beyond it count in its score, but not in the figures.
_MOST_OUTPUTS = 50_000_000
_MISTAKES = 25
# Names in files of earlier versions.
_RENAMED = {"labels": "targets", "probabilities": "outputs"}


@dataclass(frozen=True)
class Predictions:
    """Predictions for test rows."""

    rows: npt.NDArray[np.int64]
    """Index of each row within the test split, ascending [n]."""
    targets: npt.NDArray[Any]
    """True class index [n] int32, or true numbers [n, targets] float32."""
    outputs: npt.NDArray[np.float32]
    """Probabilities [n, classes], or predicted numbers [n, targets]."""
    worst: npt.NDArray[np.int64]
    """Positions in the arrays above of each rank's most confident mistakes [m], at most 25 per rank."""
    worst_images: npt.NDArray[Any]
    """[m, height, width, channels] in source values."""

    @property
    def labels(self) -> npt.NDArray[Any]:
        """`targets` of a classification."""
        return self.targets

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """`outputs` of a classification."""
        return self.outputs


class PredictionWriter:
    """Collects the predictions of one rank, batch by batch.

    Args:
        first_row: index of the rank's first row within the split.
        workers: number of ranks.
        confidence_of_mistakes: function of targets and outputs; for each row how sure the network is of a wrong prediction, or 0
            [n].
    """

    def __init__(
        self,
        first_row: int,
        workers: int,
        confidence_of_mistakes: Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[np.float64]],
    ) -> None:
        self._first_row = first_row
        self._workers = workers
        self._confidence_of_mistakes = confidence_of_mistakes
        self._rows = 0
        self._targets: list[npt.NDArray[Any]] = []
        self._outputs: list[npt.NDArray[np.float32]] = []
        # Confidence, position and image of each.
        self._worst: list[tuple[float, int, npt.NDArray[Any]]] = []

    def add(self, inputs: npt.NDArray[Any], targets: npt.NDArray[Any], outputs: npt.NDArray[np.float32]) -> None:
        """Add the next rows: inputs, targets and outputs, as in `Predictions`."""
        capacity = _MOST_OUTPUTS // (self._workers * outputs.shape[1]) - self._rows
        inputs, targets, outputs = inputs[:capacity], targets[:capacity], outputs[:capacity]
        confidence = self._confidence_of_mistakes(targets, outputs)
        self._worst += [(float(confidence[row]), self._rows + int(row), inputs[row]) for row in np.flatnonzero(confidence)]
        self._worst = sorted(self._worst, key=lambda mistake: -mistake[0])[:_MISTAKES]
        self._targets.append(targets)
        self._outputs.append(outputs)
        self._rows += len(targets)

    def save(self, run_dir: Path, rank: int) -> None:
        """Write the file of this rank. Rank 0 also removes those of ranks that a restart with fewer workers no longer has."""
        if rank == 0:
            for path in (run_dir / FOLDER).glob("test-rank-*.npz"):
                if int(path.stem.rpartition("-")[2]) >= self._workers:
                    path.unlink(missing_ok=True)
        if not self._rows:
            return
        save(
            run_dir,
            f"test-rank-{rank}",
            rows=self._first_row + np.arange(self._rows),
            targets=np.concatenate(self._targets),
            outputs=np.concatenate(self._outputs),
            worst=np.array([position for _, position, _ in self._worst], dtype=np.int64),
            worst_images=np.array([image for _, _, image in self._worst]),
        )


def save(run_dir: Path, name: str, **arrays: npt.NDArray[Any]) -> None:
    """Write arrays to a file, atomically."""
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{name}.npz"
    with unfinished.open("wb") as file:
        np.savez(atomic.Sequential(file), **arrays)  # type: ignore[arg-type, unused-ignore]
    atomic.replace(unfinished, folder / f"{name}.npz")


def has(run_dir: Path, name: str) -> bool:
    """Whether the ranks wrote a file of this name."""
    return (run_dir / FOLDER / f"{name}.npz").exists()


def has_predictions(run_dir: Path) -> bool:
    return any((run_dir / FOLDER).glob("test-rank-*.npz"))


def load(run_dir: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file.

    Raises:
        FileNotFoundError: the ranks wrote none.
        DataError: it is not as it was written.
    """
    path = run_dir / FOLDER / f"{name}.npz"
    try:
        # numpy does not compare the checksum of an array if a changed header says that it is shorter.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise DataError(f"{path}: is truncated or damaged ({error}); its figures can be drawn after another training") from error
    raise DataError(f"{path}: {damaged} is not as it was written; its figures can be drawn after another training")


def load_predictions(run_dir: Path) -> Predictions:
    """Predictions of all ranks, in the order of the rows. Raises FileNotFoundError if there are none, or as `load`."""
    files = [load(run_dir, path.stem) for path in (run_dir / FOLDER).glob("test-rank-*.npz")]
    parts = [{_RENAMED.get(name, name): array for name, array in file.items()} for file in files]
    if not parts:
        raise FileNotFoundError(f"{run_dir / FOLDER} holds no predictions")
    for part in parts:
        missing = {field.name for field in dataclasses.fields(Predictions)} - part.keys()
        if missing:
            raise DataError(f"{run_dir / FOLDER}: the predictions of a rank are without {', '.join(sorted(missing))}")
    parts.sort(key=lambda part: int(part["rows"][0]))
    starts = np.cumsum([0, *(len(part["rows"]) for part in parts)])
    with_mistakes = [part["worst_images"] for part in parts if len(part["worst"])]
    return Predictions(
        rows=np.concatenate([part["rows"] for part in parts]),
        targets=np.concatenate([part["targets"] for part in parts]),
        outputs=np.concatenate([part["outputs"] for part in parts]),
        worst=np.concatenate([part["worst"] + start for part, start in zip(parts, starts, strict=False)]),
        worst_images=np.concatenate(with_mistakes) if with_mistakes else np.empty((0, 1, 1, 1), np.uint8),
    )
