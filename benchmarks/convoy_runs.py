"""Submit Convoy's jobs for benchmarks, in their own home folder, and prepare their input."""

import bz2
import tempfile
from pathlib import Path

from processes import ROOT, SUBMIT, Finished, run

from pipelines.track.rundir import summary as summary_file
from pipelines.track.rundir.summary import TrainingSummary


def train(
    home: Path, data: Path | None, config: str, *settings: str, workers: int | None = None
) -> tuple[Finished, TrainingSummary]:
    """Run `spark-submit jobs/train_cnn.py`. Returns the process and the summary that the job wrote.

    Args:
        home: folder for tables, runs and the MLflow store; with a new one the text is ingested first.
        data: folder with the libsvm files, or None for the configured data.
        config: name of a file in conf/, without its extension.
        settings: `section.key=value`.
        workers: overrides the file's number.
    """
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        command = [str(SUBMIT), str(ROOT / "jobs/train_cnn.py"), "--config", str(ROOT / f"conf/{config}.yml")]
        command += ["--summary", str(summary)]
        if data is not None:
            command += ["--data", str(data)]
        if workers is not None:
            command += ["--workers", str(workers)]
        for setting in settings:
            command += ["--set", setting]
        finished = run(command, home)
        return finished, summary_file.read(summary)


def repeated(data: Path, folder: Path, times: int) -> Path:
    """A new folder with MNIST's training text repeated `times` times and its test text once, uncompressed."""
    folder.mkdir()
    for split, copies in (("train", times), ("test", 1)):
        packed = next(data.glob(f"*{split}*"))
        text = bz2.open(packed).read() if packed.suffix == ".bz2" else packed.read_bytes()
        with (folder / f"{split}.libsvm").open("wb") as file:
            for _ in range(copies):
                file.write(text)
    return folder
