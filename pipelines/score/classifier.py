"""A logged model, wherever it is kept: what it takes and gives, and its probabilities.

Any MLflow model will do that takes a tensor of images and gives a probability per class. What Convoy writes beside its own models
(class names, label values, value range) is used where it is there. Needs MLflow 2.13 or later; works without Spark.
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

from pipelines.errors import ConfigError, DataError, first_line
from pipelines.system import paths, temporary

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_FORMS = "runs:/RUN/model, models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or a folder with an MLmodel file"
# Rows that go through the network at once; more do not make it faster and cost memory.
_ROWS_AT_ONCE = 1000
_RUNS_LOOKED_AT = 200


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model in a local folder, not loaded."""

    uri: str
    """Names this very model: an alias is resolved to its version."""
    path: Path
    version: str
    """In the registry; empty where the model was not found through it."""
    run_id: str
    """The run that logged it, or empty."""
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    num_classes: int
    labels: tuple[int, ...]
    """Label values as the training data write them, in class order."""
    class_names: tuple[str, ...]
    value_range: tuple[float, float]
    dataset: str
    """Name of the training data, or empty."""
    table_digest: str
    """Of the table it was trained on, or empty."""
    describes_classes: bool = True
    """False for a model that was not logged by Convoy: labels, names and range are then the usual ones, taken on trust."""

    @property
    def takes_digits(self) -> bool:
        """True when images are grey digits in MNIST's form, so that pictures of digits must be brought into it."""
        grey = self.image_shape == (28, 28, 1) and self.value_range == (0.0, 255.0)
        named_digits = self.describes_classes and self.class_names == tuple("0123456789")
        return grey and named_digits and self.dataset != "fashion-mnist"

    def wants_digits(self, form: Literal["auto", "digit", "picture"]) -> bool:
        """Whether pictures are to be brought into MNIST's form, when the user asked for `form`.

        Raises:
            ConfigError: the model does not take images of that form.
        """
        if form == "digit" and self.image_shape != (28, 28, 1):
            raise ConfigError(f"--form digit: must be picture for this model, which takes images of {list(self.image_shape)}")
        return self.takes_digits if form == "auto" else form == "digit"


class Classifier:
    """A loaded model. Takes some seconds to make: it imports the library that the model was written with."""

    def __init__(self, info: ModelInfo) -> None:
        import mlflow.pyfunc

        self.info = info
        with quiet():
            self._model = mlflow.pyfunc.load_model(str(info.path))
        raw = getattr(self._model, "_model_impl", None)
        # MLflow calls Keras with 32 rows at a time and a progress bar; measured four times slower than a thousand at once.
        self._in_batches = getattr(getattr(raw, "keras_model", None), "predict_on_batch", None)

    def probabilities(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probability per class.

        Args:
            images: [n, height, width, channels] in source values, any number type.

        Returns:
            [n, num_classes] float32.

        Raises:
            DataError: the model gives something else.
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
                f"model {self.info.uri}: gave shape {list(probabilities.shape)} for {len(images)} images, expected "
                f"[{len(images)}, {self.info.num_classes}]; it must give one probability per class"
            )
        return probabilities


def find(uri: str, tracking_uri: str, experiment: str = "") -> ModelInfo:
    """Bring a model into a local folder and read what it says of itself.

    Args:
        uri: one of the forms that MLflow knows, or a folder; empty for the model of the newest finished run.
        tracking_uri: where runs are recorded.
        experiment: where the newest run is looked for.

    Raises:
        ConfigError: the URI leads to no model, or to one that does not take images.
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
            reason = first_line(error)
            raise ConfigError(f"--model {asked or uri}: not found at {tracking_uri} ({reason}); it takes {_FORMS}") from error
    if not (folder / "MLmodel").is_file():
        raise ConfigError(f"--model {asked}: there is no MLmodel file in {folder}; it takes {_FORMS}")
    return read_info(folder, uri, version)


def read_info(folder: Path, uri: str, version: str = "") -> ModelInfo:
    """What the model in a folder says of itself.

    Raises:
        ConfigError: it does not take a tensor of images, or does not give one probability per class.
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
    """A client of the tracking server, and of the registry where a model of that name is kept.

    On Databricks a name of three parts lives in Unity Catalog. Otherwise the registry is that of the tracking server, unless
    MLFLOW_REGISTRY_URI names another.
    """
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # The set-up of a new store, and hints for other versions, would go to the console.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracking_uri)
    if tracking_uri.startswith("databricks") and registered_as.count(".") == 2 and "MLFLOW_REGISTRY_URI" not in os.environ:
        # Before there is a client, which would keep the one that was set.
        mlflow.set_registry_uri("databricks-uc")
    return mlflow.MlflowClient()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow from printing what it does."""
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
    # MLflow 3 lists models as outputs of the run, MLflow 2 in a tag.
    outputs = getattr(getattr(run, "outputs", None), "model_outputs", None)
    return bool(outputs) or "mlflow.log-model.history" in run.data.tags


def registered_name(uri: str) -> str:
    """NAME in models:/NAME/VERSION and models:/NAME@ALIAS; empty for other models."""
    if not uri.startswith("models:/"):
        return ""
    rest = uri.removeprefix("models:/").strip("/")
    return rest.rpartition("@" if "@" in rest else "/")[0]


def _pinned(client: "MlflowClient", uri: str) -> tuple[str, str]:
    """The URI with its alias resolved, and the version in the registry where it is one."""
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
            f"--model {uri}: its signature must take one tensor [-1, height, width, channels] and give one [-1, classes]; "
            f"it takes {takes} and gives {gives}"
        )
    return (takes[1], takes[2], takes[3]), gives[1]


def _is_one_tensor(schema: Any) -> bool:
    return schema is not None and schema.is_tensor_spec() and len(schema.inputs) == 1
