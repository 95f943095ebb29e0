"""Distribute models to Spark's Python workers: packed by the driver, unpacked and loaded once by each worker process.

Workers need neither access to the tracking server nor a token, because Spark copies the model's files from the driver.
"""

import dataclasses
import os
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark import SparkFiles, TaskContext
from pyspark.sql import SparkSession

from pipelines.score.classifier import Classifier
from pipelines.score.model_info import ModelInfo
from pipelines.system import connect, surroundings
from pipelines.system.tensorflow_env import tensorflow_environment

_loaded: dict[str, Classifier] = {}


@dataclass(frozen=True)
class PackedModel:
    """Reference to a packed model, small enough to send with every task."""

    archive: str
    """File name of the packed model in Spark's files."""
    info: ModelInfo


def packed_models(spark: SparkSession, models: Sequence[ModelInfo]) -> tuple[PackedModel, ...]:
    """Distribute models through Spark. They stay available as long as the application."""
    # Every executor copies all files of the application before its next task, also one that is added long after this job. A file
    # that is gone would fail all jobs of the session. Spark deletes its folder when the application ends. A server of Spark
    # Connect, which keeps a copy of its own, has no folder here.
    remote = connect.is_remote(spark)
    folder = Path(tempfile.mkdtemp(prefix="convoy-ship-", dir=None if remote else SparkFiles.getRootDirectory()))
    try:
        packed = []
        for info in models:
            archive = folder / f"convoy-model-{uuid.uuid4().hex}.zip"
            _pack(info.path, archive)
            connect.add_file(spark, archive)
            packed.append(PackedModel(archive.name, info))
    finally:
        if remote:
            shutil.rmtree(folder)
    return tuple(packed)


def load(model: PackedModel) -> Classifier:
    """The model, loaded by the first task of this Spark worker process and cached for the following ones."""
    if model.archive not in _loaded:
        context = TaskContext.get()
        threads = str(context.cpus() if context is not None else 1)
        # TensorFlow reads these on import. More threads than the task's cores would slow down the other tasks.
        for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ.setdefault(variable, threads)
        surroundings.apply()
        os.environ.update(tensorflow_environment(os.environ))
        # Spark deletes this folder when the application ends.
        folder = Path(tempfile.mkdtemp(prefix="convoy-model-", dir=SparkFiles.getRootDirectory()))
        with zipfile.ZipFile(SparkFiles.get(model.archive)) as archive:
            archive.extractall(folder)
        _loaded[model.archive] = Classifier(dataclasses.replace(model.info, path=folder))
    return _loaded[model.archive]


def _pack(folder: Path, archive: Path) -> None:
    # Uncompressed, since weights hardly shrink.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder))
