"""Ingest as called by the tests, and the rows it wrote."""

from pathlib import Path

import pyarrow.parquet as pq

from pipelines.config import loader
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.system.reporter import NullReporter

SILENT = NullReporter()
SETTINGS = ("data.image_shape=[12, 12, 1]", "data.classes=4")


def ingest(spark, data, tables, *settings, reporter=SILENT):
    config = loader.load(None, [*SETTINGS, f"data.dataset={data}", f"ingest.tables_uri={tables}", *settings])
    return table.open_or_build(spark, config, resolve_source(config.data, reporter), reporter)


def rows_of(built, split):
    """(image bytes, label) of each row, in table order."""
    rows = []
    for file in built.manifest.splits[split].files:
        content = pq.ParquetFile(Path(built.uri) / file.path)
        assert content.metadata.num_row_groups == 1
        assert content.metadata.num_rows == file.rows
        columns = content.read().to_pydict()
        rows += zip(columns["image"], columns["label"], strict=True)
    assert len(rows) == built.manifest.rows(split)
    return rows
