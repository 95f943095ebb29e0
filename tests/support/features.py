"""Small synthetic rows of features of very different sizes, and what follows from them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.datasets import dump_svmlight_file
from support import tables

from pipelines.data.table.schema import DataSpec, Split, Table, Task

MEANS = np.array([0.0, 5.0, 1e5, 0.0, 3.5])
DEVIATIONS = np.array([1.0, 10.0, 1000.0, 0.01, 0.0])


def features_and_targets(rows: int, seed: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Features [rows, 5], the last of them constant; and a number [rows] that depends on them linearly, with noise of 0.1."""
    generator = np.random.default_rng(seed)
    standard = generator.normal(size=(rows, 5))
    targets = 2 * standard[:, 0] - standard[:, 1] + 3 * standard[:, 2] + 50 + 0.1 * generator.normal(size=rows)
    return (standard * DEVIATIONS + MEANS).astype(np.float32), targets.astype(np.float32)


def write_libsvm(path: Path, rows: int, *, classes: bool, seed: int = 1) -> None:
    """These rows as libsvm text. With classes, the label is 1 if the number is above its mean, else 0."""
    values, targets = features_and_targets(rows, seed)
    dump_svmlight_file(values, (targets > 50).astype(int) if classes else targets, str(path), zero_based=False)


def write_table(folder: Path, rows: dict[Split, int], *, task: Task, weighted: bool = False, rows_per_file: int = 50) -> Table:
    """A table of these rows, standardized, written without Spark. Its weights are 1 plus the first feature squared."""
    columns, per_label = {}, {}
    for number, (split, count) in enumerate(rows.items()):
        values, targets = features_and_targets(count, seed=number + 1)
        columns[split] = {"features": tables.binary(values)}
        if task == "regression":
            columns[split]["target"] = tables.binary(targets)
        else:
            labels = (targets > 50).astype(np.int32)
            columns[split]["label"] = pa.array(labels)
            per_label[split] = tuple(np.bincount(labels, minlength=2).tolist())
        if weighted:
            columns[split]["weight"] = pa.array(1 + values[:, 0] ** 2)
    spec = DataSpec(
        shape=(5,),
        dtype="float32",
        value_range=(-50.0, 110_000.0),
        checks_range=False,
        task=task,
        scaling="standardize",
        means=tuple(MEANS),
        deviations=(*DEVIATIONS[:4], 1.0),
    )
    targets_or_classes: dict[str, Any] = {"labels": (0, 1), "class_names": ("low", "high")}
    if task == "regression":
        targets_or_classes = {"target_names": ("target",), "target_means": (50.0,), "target_deviations": (3.7,)}
    return tables.write(
        folder,
        columns,
        per_label,
        rows_per_file=rows_per_file,
        dataset="features",
        spec=spec,
        weighted=weighted,
        **targets_or_classes,
    )
