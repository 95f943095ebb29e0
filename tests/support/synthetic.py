"""Small synthetic data: images whose class can be learned in a few steps."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.table.schema import (
    MANIFEST_NAME,
    DataSpec,
    ReadingRules,
    SplitSummary,
    Table,
    TableFile,
    TableManifest,
    Task,
)
from pipelines.system.fingerprint import fingerprint


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
    rows: dict[str, int],
    rows_per_file: int = 50,
    shape: tuple[int, int, int] = (12, 12, 1),
    classes: int = 4,
    learnable: bool = True,
) -> Table:
    """A table with `rows` per split, written without Spark. If not learnable, labels are independent of images."""
    splits = {}
    for number, (split, count) in enumerate(rows.items()):
        images, labels = images_and_labels(count, shape, classes, seed=number)
        if not learnable:
            labels = np.random.default_rng(number).permutation(labels)
        (folder / f"split={split}").mkdir(parents=True)
        files = []
        for start in range(0, count, rows_per_file):
            path = f"split={split}/part-{start // rows_per_file:05d}.parquet"
            chunk = slice(start, start + rows_per_file)
            columns = {
                "image": pa.array([image.tobytes() for image in images[chunk]], pa.binary()),
                "label": pa.array(labels[chunk], pa.int32()),
            }
            pq.write_table(pa.table(columns), folder / path)
            content = fingerprint(folder / path)
            files.append(TableFile(path=path, rows=len(labels[chunk]), num_bytes=content.num_bytes, sha256=content.sha256))
        per_label = tuple(np.bincount(labels, minlength=classes).tolist())
        splits[split] = SplitSummary(rows=count, rows_per_label=per_label, files=tuple(files))
    manifest = TableManifest(
        dataset="synthetic",
        spec=DataSpec(shape=shape, dtype="uint8", value_range=(0.0, 255.0)),
        labels=tuple(range(classes)),
        class_names=tuple(str(label) for label in range(classes)),
        splits=splits,
        sources=(),
        seed=1,
        rejected_rows=0,
        rejected_by_reason={},
        note="",
        key="0" * 64,
        created_at="2026-01-01T00:00:00Z",
        convoy_version="0",
        reading=ReadingRules(source="libsvm"),
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return Table(str(folder), manifest)


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
    folder: Path, rows: dict[str, int], *, task: Task = "regression", targets: int = 1, weighted: bool = False, features: int = 6
) -> Table:
    """A table of features with numbers as targets, or with the classes 0 to 2, of which class 2 is rare."""
    splits = {}
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    for number, (split, count) in enumerate(rows.items()):
        values, numbers = features_and_numbers(count, features, targets, seed=number)
        classes = np.digitize(numbers[:, 0], (50, 53)).astype(np.int32)
        if split == "train" and task == "regression":
            means, deviations = (tuple(each.astype(float).tolist()) for each in (numbers.mean(axis=0), numbers.std(axis=0)))
        is_numbers = task == "regression"
        columns = {
            "features": pa.array([row.tobytes() for row in values], pa.binary()),
            "target" if is_numbers else "label": pa.array([row.tobytes() for row in numbers], pa.binary())
            if is_numbers
            else pa.array(classes, pa.int32()),
        }
        if weighted:
            columns["weight"] = pa.array(row_weights(count, seed=number), pa.float32())
        path = f"split={split}/part-00000.parquet"
        (folder / path).parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / path)
        content = fingerprint(folder / path)
        per_label = () if is_numbers else tuple(np.bincount(classes, minlength=3).tolist())
        file = TableFile(path=path, rows=count, num_bytes=content.num_bytes, sha256=content.sha256)
        splits[split] = SplitSummary(rows=count, rows_per_label=per_label, files=(file,))
    manifest = TableManifest(
        dataset="numbers",
        spec=DataSpec(shape=(features,), dtype="float32", value_range=(-10.0, 10.0), task=task, scaling="none"),
        labels=() if task == "regression" else (0, 1, 2),
        class_names=() if task == "regression" else ("low", "middle", "high"),
        target_names=tuple(f"target_{number + 1}" for number in range(targets)) if task == "regression" else (),
        target_means=means,
        target_deviations=deviations,
        weighted=weighted,
        splits=splits,
        sources=(),
        seed=1,
        rejected_rows=0,
        rejected_by_reason={},
        note="",
        key="1" * 64,
        created_at="2026-01-01T00:00:00Z",
        convoy_version="0",
        reading=ReadingRules(source="libsvm"),
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return Table(str(folder), manifest)


def row_weights(rows: int, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed + 2000).uniform(0, 3, rows).astype(np.float32)
