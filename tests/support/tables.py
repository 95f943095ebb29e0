"""Tables written without Spark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.table.schema import MANIFEST_NAME, ReadingRules, Split, SplitSummary, Table, TableFile, TableManifest
from pipelines.system.fingerprint import fingerprint


def binary(rows: Any) -> pa.Array:
    """A column of the bytes of each row [n, ...]."""
    return pa.array([row.tobytes() for row in rows], pa.binary())


def write(
    folder: Path,
    columns: Mapping[Split, Mapping[str, pa.Array]],
    rows_per_label: Mapping[Split, tuple[int, ...]],
    *,
    rows_per_file: int = 50,
    **fields: Any,
) -> Table:
    """A table in `folder`.

    Args:
        folder: need not exist.
        columns: of each split.
        rows_per_label: of each split that has classes.
        rows_per_file: in each file but the last of a split.
        fields: of the manifest, which have no default here.
    """
    splits: dict[Split, SplitSummary] = {}
    for split, of_split in columns.items():
        (folder / f"split={split}").mkdir(parents=True)
        whole = pa.table(of_split)
        files = []
        for start in range(0, len(whole), rows_per_file):
            path = f"split={split}/part-{start // rows_per_file:05d}.parquet"
            part = whole.slice(start, rows_per_file)
            pq.write_table(part, folder / path)
            content = fingerprint(folder / path)
            files.append(TableFile(path=path, rows=len(part), num_bytes=content.num_bytes, sha256=content.sha256))
        splits[split] = SplitSummary(rows=len(whole), rows_per_label=rows_per_label.get(split, ()), files=tuple(files))
    defaults: dict[str, Any] = {"labels": (), "class_names": (), "key": "0" * 64}
    manifest = TableManifest(
        splits=splits,
        sources=(),
        seed=1,
        rejected_rows=0,
        rejected_by_reason={},
        note="",
        created_at="2026-01-01T00:00:00Z",
        convoy_version="0",
        reading=ReadingRules(source="libsvm"),
        **defaults | fields,
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return Table(str(folder), manifest)
