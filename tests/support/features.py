"""Small synthetic rows of features of very different sizes, and what follows from them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import dump_svmlight_file

from pipelines.data.table.schema import (
    MANIFEST_NAME,
    DataSpec,
    ReadingRules,
    Split,
    SplitSummary,
    Table,
    TableFile,
    TableManifest,
    Task,
)
from pipelines.system.fingerprint import fingerprint

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


def write_table(folder: Path, rows: dict[str, int], *, task: Task, weighted: bool = False, rows_per_file: int = 50) -> Table:
    """A table of these rows, standardized, written without Spark. Its weights are 1 plus the first feature squared."""
    splits: dict[Split, SplitSummary] = {}
    is_regression = task == "regression"
    for number, (split, count) in enumerate(rows.items()):
        values, targets = features_and_targets(count, seed=number + 1)
        labels = (targets > 50).astype(np.int32)
        columns = {"features": pa.array([row.tobytes() for row in values], pa.binary())}
        if is_regression:
            columns["target"] = pa.array([target.tobytes() for target in targets], pa.binary())
        else:
            columns["label"] = pa.array(labels)
        if weighted:
            columns["weight"] = pa.array(1 + values[:, 0] ** 2)
        (folder / f"split={split}").mkdir(parents=True)
        files = []
        for start in range(0, count, rows_per_file):
            path = f"split={split}/part-{start // rows_per_file:05d}.parquet"
            part = pa.table(columns).slice(start, rows_per_file)
            pq.write_table(part, folder / path)
            content = fingerprint(folder / path)
            files.append(TableFile(path=path, rows=len(part), num_bytes=content.num_bytes, sha256=content.sha256))
        per_label = () if is_regression else tuple(np.bincount(labels, minlength=2).tolist())
        splits[split] = SplitSummary(rows=count, rows_per_label=per_label, files=tuple(files))
    manifest = TableManifest(
        dataset="features",
        spec=DataSpec(
            shape=(5,),
            dtype="float32",
            value_range=(-50.0, 110_000.0),
            checks_range=False,
            task=task,
            scaling="standardize",
            means=tuple(MEANS),
            deviations=(*DEVIATIONS[:4], 1.0),
        ),
        labels=() if is_regression else (0, 1),
        class_names=() if is_regression else ("low", "high"),
        target_names=("target",) if is_regression else (),
        target_means=(50.0,) if is_regression else (),
        target_deviations=(3.7,) if is_regression else (),
        weighted=weighted,
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
