"""Find a logged model, read its inputs and outputs, and compute class probabilities.

Works with any MLflow model that maps a tensor of images to one probability per class. The metadata that Convoy adds to its own
models (class names, label values, value range) is used where present. Needs MLflow 2.13 or later, but no Spark.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.errors import ConfigError, DataError
from pipelines.system import paths, temporary

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_FORMS = "runs:/RUN/model, models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or a folder with an MLmodel file"
# Larger batches are no faster and cost memory.
_ROWS_AT_ONCE = 1000
_RUNS_LOOKED_AT = 200


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Description of a model in a local folder; the model itself is not loaded."""

    uri: str
    """Identifies exactly this model: an alias is resolved to its version."""
    path: Path
    version: str
    """Version in the registry; empty if the model was not found through it."""
    run_id: str
    """The run that logged it, or empty."""
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    num_classes: int
    labels: tuple[int, ...]
    """Label values as in the training data, in class order."""
    class_names: tuple[str, ...]
    value_range: tuple[float, float]
    dataset: str
    """Name of the training data, or empty."""
    table_digest: str
    """Digest of the table it was trained on, or empty."""
    describes_classes: bool = True
    """False for a model that Convoy did not log: labels, class names and value range are then unverified defaults."""

    @property
    def takes_digits(self) -> bool:
        """Whether the model expects grey digits in MNIST's format, to which pictures of digits must be converted."""
        grey = self.image_shape == (28, 28, 1) and self.value_range == (0.0, 255.0)
        named_digits = self.describes_classes and self.class_names == tuple("0123456789")
        return grey and named_digits and self.dataset != "fashion-mnist"

    def wants_digits(self, form: Literal["auto", "digit", "picture"]) -> bool:
        """Whether to convert pictures to MNIST's format, given the value of `--form`.

        Raises:
            ConfigError: the model does not take images in that format.
        """
        if form == "digit" and self.image_shape != (28, 28, 1):
            raise ConfigError(
                f"--form digit: must be picture for this model, which takes images of shape {list(self.image_shape)}"
            )
        return self.takes_digits if form == "auto" else form == "digit"


class Classifier:
    """A loaded model. Loading takes seconds, because it imports the library that the model was written with."""

    def __init__(self, info: ModelInfo) -> None:
        import mlflow.pyfunc

        self.info = info
        with quiet():
            self._model = mlflow.pyfunc.load_model(str(info.path))
        raw = getattr(self._model, "_model_impl", None)
        # MLflow calls Keras with batches of 32 and a progress bar; measured four times slower than batches of 1,000.
        self._in_batches = getattr(getattr(raw, "keras_model", None), "predict_on_batch", None)

    def probabilities(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities.

        Args:
            images: [n, height, width, channels] in `value_range`, any numeric dtype.

        Returns:
            [n, num_classes] float32.

        Raises:
            DataError: the model's output has another shape.
        """
        parts = [self._predict(images[start : start + _ROWS_AT_ONCE]) for start in range(0, len(images), _ROWS_AT_ONCE)]
        if not parts:
            return np.empty((0, self.info.num_classes), np.float32)
        return np.concatenate(parts)

    def _predict(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = images.astype(np.float32)
        if self._in_batches is not None:
            found = self._in_batches(values)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                found = self._model.predict(values)
        probabilities = np.asarray(found, np.float32)
        if probabilities.shape != (len(images), self.info.num_classes):
            raise DataError(
                f"model {self.info.uri}: output has shape {list(probabilities.shape)} for {len(images)} images, expected "
                f"[{len(images)}, {self.info.num_classes}]; it must be one probability per class"
            )
        return probabilities


def find(uri: str, tracking_uri: str, experiment: str = "") -> ModelInfo:
    """Download a model to a local folder and read its description.

    Args:
        uri: a model URI of MLflow, or a folder; empty for the model of the newest finished run.
        tracking_uri: the tracking server.
        experiment: the experiment to search for the newest run.

    Raises:
        ConfigError: there is no model at the URI, or it does not take images.
    """
    client = connect(tracking_uri, registered_name(uri))
    asked = uri
    if not uri:
        uri = _newest_model(client, experiment)
    folder = Path() if _has_scheme(uri) else paths.to_python(uri)
    version = ""
    if _has_scheme(uri):
        try:
            uri, version = _pinned(client, uri)
            folder = _download(uri)
        except Exception as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"--model {asked or uri}: not found at {tracking_uri} ({first_line}); use {_FORMS}") from error
    if not (folder / "MLmodel").is_file():
        raise ConfigError(f"--model {asked}: no MLmodel file in {folder}; use {_FORMS}")
    return read_info(folder, uri, version)


def read_info(folder: Path, uri: str, version: str = "") -> ModelInfo:
    """Read the description of the model in a folder.

    Raises:
        ConfigError: its input is not a tensor of images, or its output not one probability per class.
    """
    from mlflow.models import Model

    saved = Model.load(str(folder))
    shape, num_classes = _tensor_shapes(saved, uri)
    metadata: dict[str, Any] = saved.metadata or {}
    labels: Sequence[int] = metadata.get("labels", range(num_classes))
    low, high = metadata.get("value_range", (0.0, 255.0))
    return ModelInfo(
        uri=uri,
        path=folder,
        version=version,
        run_id=saved.run_id or "",
        image_shape=shape,
        num_classes=num_classes,
        labels=tuple(labels),
        class_names=tuple(metadata.get("class_names", map(str, labels))),
        value_range=(float(low), float(high)),
        dataset=metadata.get("dataset", ""),
        table_digest=metadata.get("table_digest", ""),
        describes_classes="labels" in metadata,
    )


def connect(tracking_uri: str, registered_as: str = "") -> "MlflowClient":
    """A client of the tracking server and of the registry that holds a model of that name.

    On Databricks three-part names are in Unity Catalog. Otherwise the tracking server's own registry is used, unless
    MLFLOW_REGISTRY_URI names another.
    """
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Otherwise messages on the set-up of a new store and hints about other versions go to the console.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracking_uri)
    if tracking_uri.startswith("databricks") and registered_as.count(".") == 2 and "MLFLOW_REGISTRY_URI" not in os.environ:
        # Must precede the client, which keeps the registry set at its creation.
        mlflow.set_registry_uri("databricks-uc")
    return mlflow.MlflowClient()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress MLflow's messages."""
    from mlflow.utils import logging_utils

    was_enabled = logging_utils.MLFLOW_LOGGING_STREAM.enabled
    logging_utils.disable_logging()
    try:
        yield
    finally:
        logging_utils.MLFLOW_LOGGING_STREAM.enabled = was_enabled


def _newest_model(client: "MlflowClient", experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        runs = client.search_runs(
            [found.experiment_id],
            filter_string="attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=_RUNS_LOOKED_AT,
        )
        for run in runs:
            if _logged_a_model(run):
                return f"runs:/{run.info.run_id}/model"
    raise ConfigError(f"--model: experiment '{experiment}' has no finished run with a model; train one, or name one: {_FORMS}")


def _logged_a_model(run: "Run") -> bool:
    # MLflow 3 lists models as the run's outputs, MLflow 2 in a tag.
    outputs = getattr(getattr(run, "outputs", None), "model_outputs", None)
    return bool(outputs) or "mlflow.log-model.history" in run.data.tags


def registered_name(uri: str) -> str:
    """NAME in models:/NAME/VERSION and models:/NAME@ALIAS; empty for other models."""
    if not uri.startswith("models:/"):
        return ""
    rest = uri.removeprefix("models:/").strip("/")
    return rest.rpartition("@" if "@" in rest else "/")[0]


def _pinned(client: "MlflowClient", uri: str) -> tuple[str, str]:
    """The URI with its alias resolved, and the registry version; empty for models outside the registry."""
    name = registered_name(uri)
    if not name:
        return uri, ""
    version = uri.removeprefix("models:/").strip("/")[len(name) + 1 :]
    if "@" in uri:
        version = str(client.get_model_version_by_alias(name, version).version)
    return f"models:/{name}/{version}", version


def _download(uri: str) -> Path:
    import mlflow.artifacts

    folder = temporary.folder("convoy-model-")
    with quiet():
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))


def _has_scheme(uri: str) -> bool:
    return uri.startswith(("runs:/", "models:/", "mlflow-artifacts:", "http://", "https://", "s3://", "abfss://", "gs://"))


def _tensor_shapes(saved: Any, uri: str) -> tuple[tuple[int, int, int], int]:
    """Image shape and number of classes, from the signature."""
    signature = saved.signature
    takes = list(signature.inputs.inputs[0].shape) if _is_one_tensor(signature and signature.inputs) else None
    gives = list(signature.outputs.inputs[0].shape) if _is_one_tensor(signature and signature.outputs) else None
    if takes is None or gives is None or len(takes) != 4 or len(gives) != 2 or -1 in (*takes[1:], gives[1]):
        raise ConfigError(
            f"--model {uri}: its signature must have one input tensor [-1, height, width, channels] and one output tensor "
            f"[-1, classes]; they are {takes} and {gives}"
        )
    return (takes[1], takes[2], takes[3]), gives[1]


def _is_one_tensor(schema: Any) -> bool:
    return schema is not None and schema.is_tensor_spec() and len(schema.inputs) == 1
