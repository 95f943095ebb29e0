"""Small synthetic data: images whose class can be learned in a few steps."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from support import tables

from pipelines.data.table.schema import DataSpec, Split, Table, Task


def images_and_labels(
    rows: int, shape: tuple[int, int, int] = (12, 12, 1), classes: int = 4, seed: int = 1
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Noise with a bright band of rows whose position is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    images = rng.integers(0, 60, (rows, *shape)).astype(np.uint8)
    step = shape[0] // classes
    for image, label in zip(images, labels, strict=True):
        image[label * step : label * step + step] += 180
    return images, labels


def write_table(
    folder: Path,
    rows: dict[Split, int],
    rows_per_file: int = 50,
    shape: tuple[int, int, int] = (12, 12, 1),
    classes: int = 4,
    learnable: bool = True,
) -> Table:
    """A table with `rows` per split, written without Spark. If not learnable, labels are independent of images."""
    columns, per_label = {}, {}
    for number, (split, count) in enumerate(rows.items()):
        images, labels = images_and_labels(count, shape, classes, seed=number)
        if not learnable:
            labels = np.random.default_rng(number).permutation(labels)
        columns[split] = {"image": tables.binary(images), "label": pa.array(labels, pa.int32())}
        per_label[split] = tuple(np.bincount(labels, minlength=classes).tolist())
    return tables.write(
        folder,
        columns,
        per_label,
        rows_per_file=rows_per_file,
        dataset="synthetic",
        spec=DataSpec(shape=shape, dtype="uint8", value_range=(0.0, 255.0)),
        labels=tuple(range(classes)),
        class_names=tuple(str(label) for label in range(classes)),
    )


def write_libsvm(path: Path, rows: int, shape: tuple[int, int, int] = (12, 12, 1), classes: int = 4, seed: int = 1) -> None:
    """The same images as libsvm text, with zeros omitted."""
    images, labels = images_and_labels(rows, shape, classes, seed)
    with path.open("w") as file:
        for image, label in zip(images.reshape(rows, -1), labels, strict=True):
            features = " ".join(f"{index + 1}:{value}" for index, value in enumerate(image) if value)
            file.write(f"{label} {features}\n")


def features_and_numbers(
    rows: int, features: int = 6, targets: int = 1, seed: int = 1
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Features, and numbers far from 0 that follow from them but for a little noise. The scales of the numbers differ."""
    values = np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)
    slopes = np.random.default_rng(0).normal(size=(features, targets))
    noise = np.random.default_rng(seed + 1000).normal(size=(rows, targets)) * 0.1
    numbers = (values @ slopes + np.abs(values[:, :1]) + noise) * 10.0 ** np.arange(targets) + 50
    return values, numbers.astype(np.float32)


def write_features_table(
    folder: Path,
    rows: dict[Split, int],
    *,
    task: Task = "regression",
    targets: int = 1,
    weighted: bool = False,
    features: int = 6,
) -> Table:
    """A table of features with numbers as targets, or with the classes 0 to 2, of which class 2 is rare."""
    columns, per_label = {}, {}
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    for number, (split, count) in enumerate(rows.items()):
        values, numbers = features_and_numbers(count, features, targets, seed=number)
        columns[split] = {"features": tables.binary(values)}
        if task == "regression":
            columns[split]["target"] = tables.binary(numbers)
            if split == "train":
                means, deviations = (tuple(each.astype(float).tolist()) for each in (numbers.mean(axis=0), numbers.std(axis=0)))
        else:
            classes = np.digitize(numbers[:, 0], (50, 53)).astype(np.int32)
            columns[split]["label"] = pa.array(classes, pa.int32())
            per_label[split] = tuple(np.bincount(classes, minlength=3).tolist())
        if weighted:
            columns[split]["weight"] = pa.array(row_weights(count, seed=number), pa.float32())
    targets_or_classes: dict[str, Any] = {"labels": (0, 1, 2), "class_names": ("low", "middle", "high")}
    if task == "regression":
        names = tuple(f"target_{number + 1}" for number in range(targets))
        targets_or_classes = {"target_names": names, "target_means": means, "target_deviations": deviations}
    return tables.write(
        folder,
        columns,
        per_label,
        rows_per_file=max(rows.values()),
        dataset="numbers",
        spec=DataSpec(shape=(features,), dtype="float32", value_range=(-10.0, 10.0), task=task, scaling="none"),
        weighted=weighted,
        key="1" * 64,
        **targets_or_classes,
    )


def row_weights(rows: int, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed + 2000).uniform(0, 3, rows).astype(np.float32)
