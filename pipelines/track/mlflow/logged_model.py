"""The logged model: saved by a worker, logged by the driver.

A worker has Keras and the weights in memory; the driver has neither, but owns the run. So the worker writes a complete MLflow
model folder, and the driver logs that folder unchanged.
"""

import importlib.metadata
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.data.formats.mnist_format import is_mnist_format
from pipelines.data.table import row_hashes
from pipelines.data.table.schema import TableManifest
from pipelines.errors import ConvoyError
from pipelines.system import keras_settings

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

_NAME = "model"
_CODE_FOLDER = "code"
_SERVED_MODULE = "convoy_served_model"
# Libraries that users of the model must not need.
_TRAINING_ONLY = (b"horovod", b"petastorm", b"pyspark")
_TEXT_FILES = ("MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml")


class ModelCode(Protocol):
    """What a network of the user's adds to a model's folder (`pipelines.models.custom.packaging`)."""

    @property
    def files(self) -> Mapping[str, str]:
        """Texts of Python files by their path in the folder of the model's code."""

    @property
    def requirements(self) -> Sequence[str]:
        """Packages with their versions."""

    @property
    def keras_module(self) -> str:
        """The module in `files` that MLflow is to take for Keras."""


def save(
    model: "keras.Model",
    folder: Path,
    manifest: TableManifest,
    example: npt.NDArray[Any],
    sample: Sequence[npt.NDArray[Any]] = (),
    training_rows: Path | None = None,
    code: ModelCode | None = None,
) -> None:
    """Write an MLflow model folder.

    Args:
        model: uncompiled, float32.
        folder: must not exist.
        manifest: manifest of the training table; image shape and class names are stored in the model's metadata.
        example: images [n, height, width, channels] in source values, stored as the input example.
        sample: some training images in the same form, which show whether pictures are to be converted to MNIST's format. Without
            any they are not.
        training_rows: the file with the hashes of the table's training rows.
        code: what the user's own network adds to the folder.

    Raises:
        ConvoyError: the saved model needs Horovod, Petastorm or Spark.
    """
    import mlflow.tensorflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *manifest.spec.shape))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, manifest.num_outputs))]),
    )
    mlflow.tensorflow.save_model(
        model,
        str(folder),
        signature=signature,
        input_example=example.astype(np.float32),
        pip_requirements=[*_requirements(), *(code.requirements if code is not None else ())],
        metadata=_metadata(manifest, sample),
    )
    _serve_checked(folder)
    if code is not None:
        _add_code(folder, code)
    if training_rows is not None:
        shutil.copyfile(training_rows, folder / row_hashes.FILE_NAME)
    check_portable(folder)


def _metadata(manifest: TableManifest, sample: Sequence[npt.NDArray[Any]]) -> dict[str, Any]:
    """What is known in training about the data, and would have to be guessed later."""
    metadata: dict[str, Any] = {
        "task": manifest.spec.task,
        "class_names": list(manifest.class_names),
        "labels": list(manifest.labels),
        "value_range": list(manifest.spec.value_range),
        "range_was_read": not manifest.spec.checks_range,
        "scaling": manifest.spec.scaling,
        "dataset": manifest.dataset,
        "table_digest": manifest.digest,
        "splits": {name: {"rows": split.rows, "digest": split.digest} for name, split in manifest.splits.items()},
    }
    if manifest.spec.task == "regression":
        metadata |= {"target_names": list(manifest.target_names), "target_deviations": list(manifest.target_deviations)}
    reading = manifest.reading
    if reading is None:
        return metadata
    # Pictures are trained on as they are, digits or not.
    could_be = reading.source == "libsvm" and manifest.spec.is_picture and sample
    is_mnist = could_be and is_mnist_format(np.concatenate(sample), manifest.spec.value_range)
    return metadata | {
        "source": reading.source,
        "picture_form": "digit" if is_mnist else "picture" if manifest.spec.is_picture else "unknown",
        "zero_based": reading.zero_based,
        "resize_pictures": reading.resize_pictures,
        "columns": reading.columns,
    }


def _serve_checked(folder: Path) -> None:
    """Let MLflow load the model through `pipelines.track.mlflow.served_model`."""
    from mlflow.models import Model

    code = folder / _CODE_FOLDER
    code.mkdir()
    shutil.copyfile(Path(__file__).with_name("served_model.py"), code / f"{_SERVED_MODULE}.py")
    shutil.copyfile(keras_settings.__file__, code / "convoy_keras_settings.py")
    saved = Model.load(str(folder))
    saved.flavors["python_function"] |= {"loader_module": _SERVED_MODULE, "code": _CODE_FOLDER}
    saved.save(str(folder / "MLmodel"))


def _add_code(folder: Path, code: ModelCode) -> None:
    """Let MLflow load the model within the user's modules, both as a `pyfunc` and by `mlflow.tensorflow.load_model`."""
    from mlflow.models import Model

    for name, text in code.files.items():
        file = folder / _CODE_FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    # MLflow saves registered classes as pickles, which it then refuses to load.
    for pickled in (folder / "data").glob("*custom_objects.cloudpickle"):
        pickled.unlink()
    (folder / "data" / "keras_module.txt").write_text(code.keras_module)
    saved = Model.load(str(folder))
    saved.flavors["tensorflow"] |= {"keras_module": code.keras_module, "code": _CODE_FOLDER}
    saved.save(str(folder / "MLmodel"))


def check_portable(folder: Path) -> None:
    """Raises ConvoyError if a saved model names a library that only training needs."""
    contents = {name: (folder / name).read_bytes() for name in _TEXT_FILES if (folder / name).exists()}
    for archive in folder.rglob("*.keras"):
        with zipfile.ZipFile(archive) as saved:
            contents |= {f"{archive.name}/{name}": saved.read(name) for name in saved.namelist() if name.endswith(".json")}
    for name, content in contents.items():
        for library in _TRAINING_ONLY:
            if library in content.lower():
                raise ConvoyError(
                    f"the saved model's {name} names {library.decode()}, so it would not load elsewhere; this is a defect"
                )


def adopt(folder: Path, run_id: str, experiment_id: str, tracking_uri: str) -> str:
    """Log a model folder to a run and return the model's URI. Changes MLflow's global tracking URI and experiment."""
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(tracking_uri)
    # MLflow 3 logs a model to the active experiment, not to that of the run.
    mlflow.set_experiment(experiment_id=experiment_id)
    info = Model.log(_NAME, _SavedModel(), run_id=run_id, source=folder, validate_serving_input=False)
    uri: str = info.model_uri
    return uri


def download(uri: str, tracking_uri: str, folder: Path) -> Path:
    """Download a model to a folder. Changes MLflow's global tracking URI, and raises what MLflow raises."""
    import mlflow.artifacts

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(tracking_uri)
    name = uri.removeprefix("models:/").rpartition("@" if "@" in uri else "/")[0]
    if tracking_uri.startswith("databricks") and name.count(".") == 2 and "MLFLOW_REGISTRY_URI" not in os.environ:
        mlflow.set_registry_uri("databricks-uc")
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))


def logged_uri(client: "MlflowClient", run_id: str, experiment_id: str) -> str:
    """URI of the model of a run, empty if it has none, or none with its files. Remains of interrupted uploads are deleted."""
    if not hasattr(client, "search_logged_models"):
        # MLflow 2 stores a model among the artifacts of its run, so logging it again overwrites the same files.
        files = {file.path for file in client.list_artifacts(run_id, _NAME)}
        return f"runs:/{run_id}/{_NAME}" if f"{_NAME}/MLmodel" in files else ""
    uri = ""
    for model in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        if str(model.status) == "READY" and model.name == _NAME:
            # Files can be lost where the database is kept.
            if any(file.path == "MLmodel" for file in client.list_logged_model_artifacts(model.model_id)):
                uri = str(model.model_uri)
        elif model.name == _NAME:
            client.delete_logged_model(model.model_id)
    return uri


class _SavedModel:
    """An MLflow flavor, which writes a model folder; this one copies a complete folder."""

    __name__ = "tensorflow"

    def save_model(self, path: str, mlflow_model: Any, source: Path, **_: Any) -> None:
        from mlflow.models import Model

        shutil.copytree(source, path)
        saved = Model.load(source)
        for field in ("flavors", "signature", "saved_input_example_info", "metadata", "utc_time_created", "model_size_bytes"):
            if hasattr(saved, field):
                setattr(mlflow_model, field, getattr(saved, field))
        mlflow_model.save(str(Path(path) / "MLmodel"))


def _requirements() -> list[str]:
    requirements = []
    for distributions in (("mlflow",), ("tensorflow", "tensorflow-cpu"), ("keras",), ("numpy",)):
        for distribution in distributions:
            try:
                requirements.append(f"{distribution}=={importlib.metadata.version(distribution)}")
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return requirements
