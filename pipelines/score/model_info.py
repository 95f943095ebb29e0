"""The inputs, outputs and metadata of a logged model, read from its folder without loading it.

Works with any MLflow model that maps a tensor of rows to one probability per class, or to numbers if its metadata say so. The
metadata that Convoy adds to its own models (class names, label values, value range, how rows are read, training rows) is used
where present. Needs MLflow 2.13 or later, but no Spark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.data.table import row_hashes
from pipelines.data.table.row_hashes import TrainingRows
from pipelines.data.table.schema import ReadingRules, Scaling
from pipelines.data.table.schema import Task as TaskName
from pipelines.errors import ConfigError

Form = Literal["auto", "digit", "picture"]
"""How to take pictures: as the model was trained, converted to MNIST's format, or only resized."""


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
    image_shape: tuple[int, ...]
    """Height, width, channels of a picture; the number of features of a row that is no picture."""
    num_classes: int
    """0 for a model of numbers."""
    labels: tuple[int, ...]
    """Label values as in the training data, in class order."""
    class_names: tuple[str, ...]
    value_range: tuple[float, float]
    """Of the training data."""
    dataset: str
    """Name of the training data, or empty."""
    table_digest: str
    """Digest of the table it was trained on, or empty."""
    describes_classes: bool = True
    """False for a model that Convoy did not log: labels, class names and value range are then unverified defaults."""

    picture_form: Literal["digit", "picture", "unknown"] = "unknown"
    """`digit`: trained on images in MNIST's format, to which pictures of digits must be converted."""
    reading: ReadingRules | None = None
    """How the training rows were read; None if the model does not record it."""
    scaling: Scaling = "range"
    range_was_read: bool = False
    """`value_range` is no rule, but what the training rows happen to have."""

    task: TaskName = "classification"
    target_names: tuple[str, ...] = ()
    """Names of the numbers that a model of numbers predicts."""
    target_deviations: tuple[float, ...] = ()
    """Standard deviation of each among the training rows; 1 where the model does not record it."""

    @property
    def is_of_pictures(self) -> bool:
        return len(self.image_shape) == 3

    @property
    def checks_range(self) -> bool:
        """Whether values outside `value_range` are malformed."""
        return self.describes_classes and not self.range_was_read

    @property
    def num_outputs(self) -> int:
        """Classes, or numbers that are predicted."""
        return self.num_classes or len(self.target_names)

    def converts_to_digits(self, form: Form) -> bool:
        """Whether to convert pictures to MNIST's format, given the value of `--form`.

        Raises:
            ConfigError: the model does not take images in that format.
        """
        if form == "digit" and self.image_shape != (28, 28, 1):
            raise ConfigError(
                f"--form digit: must be picture for this model, which takes images of shape {list(self.image_shape)}"
            )
        return self.picture_form == "digit" if form == "auto" else form == "digit"

    def resizes_pictures(self, form: Form) -> bool:
        """Whether to resize pictures of another size: not if training refused them."""
        was_resized = self.reading is None or self.reading.source != "pictures" or self.reading.resize_pictures
        return form != "auto" or was_resized

    @property
    def knows_indices(self) -> bool:
        """Whether it records the number at which the indices of libsvm text start. Training on pictures says nothing about it."""
        return self.reading is not None and self.reading.source == "libsvm"

    def zero_based(self, configured: bool) -> bool:
        """Whether the indices of libsvm text start at 0: as in the training data, or as configured if that is not known."""
        return self.reading.zero_based if self.reading is not None and self.knows_indices else configured

    def picture_note(self, form: Form) -> str:
        """What the user must know about pictures that this model is about to see; empty if the model records their form."""
        if form != "auto" or self.picture_form != "unknown":
            return ""
        return (
            f"{self.uri} does not record how it takes pictures: they are resized as they are; --form digit converts them to "
            "MNIST's format"
        )

    def training_rows(self) -> TrainingRows | None:
        """The hashes of the rows that the model was trained on; None if it does not record them.

        Raises:
            DataError: the file with them is damaged.
        """
        return TrainingRows.read(self.path / row_hashes.FILE_NAME)


def read(folder: Path, uri: str, version: str = "") -> ModelInfo:
    """Read the description of the model in a folder.

    Raises:
        ConfigError: its input is not a tensor of rows, or its output not one of probabilities or numbers.
    """
    from mlflow.models import Model

    model = Model.load(str(folder))
    shape, outputs = _tensor_shapes(model.signature, uri)
    metadata: dict[str, Any] = model.metadata or {}
    task: TaskName = metadata.get("task", "classification")
    num_classes = outputs if task == "classification" else 0
    names = metadata.get("target_names", [f"target_{number + 1}" for number in range(outputs)])
    labels: Sequence[int] = metadata.get("labels", range(num_classes))
    low, high = metadata.get("value_range", (0.0, 255.0))
    return ModelInfo(
        uri=uri,
        path=folder,
        version=version,
        run_id=model.run_id or "",
        image_shape=shape,
        num_classes=num_classes,
        labels=tuple(labels),
        class_names=tuple(metadata.get("class_names", map(str, labels))),
        value_range=(float(low), float(high)),
        dataset=metadata.get("dataset", ""),
        table_digest=metadata.get("table_digest", ""),
        describes_classes="labels" in metadata,
        picture_form=metadata.get("picture_form", "unknown"),
        reading=_reading(metadata),
        scaling=metadata.get("scaling", "range"),
        range_was_read=metadata.get("range_was_read", False),
        task=task,
        target_names=() if num_classes else tuple(names),
        target_deviations=() if num_classes else tuple(metadata.get("target_deviations", [1.0] * outputs)),
    )


def _reading(metadata: Mapping[str, Any]) -> ReadingRules | None:
    if "source" not in metadata:
        return None
    return ReadingRules(
        source=metadata["source"],
        zero_based=metadata["zero_based"],
        resize_pictures=metadata["resize_pictures"],
        columns=metadata.get("columns", {}),
    )


def _tensor_shapes(signature: Any, uri: str) -> tuple[tuple[int, ...], int]:
    """Shape of an input and number of outputs, from the model's signature."""
    inputs = list(signature.inputs.inputs[0].shape) if _is_one_tensor(signature and signature.inputs) else None
    outputs = list(signature.outputs.inputs[0].shape) if _is_one_tensor(signature and signature.outputs) else None
    if inputs is None or outputs is None or len(inputs) not in (2, 4) or len(outputs) != 2 or -1 in (*inputs[1:], outputs[1]):
        raise ConfigError(
            f"--model {uri}: its signature must have one input tensor, [-1, height, width, channels] or [-1, features], and one "
            f"output tensor, [-1, classes] or [-1, numbers]; they are {inputs} and {outputs}"
        )
    return tuple(inputs[1:]), outputs[1]


def _is_one_tensor(schema: Any) -> bool:
    return schema is not None and schema.is_tensor_spec() and len(schema.inputs) == 1
