"""The rows a model is evaluated on: those of an existing table, or of libsvm files that are ingested into one."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import SparkSession

from pipelines.config import Config, DataConfig
from pipelines.data.ingest import table
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.sources.source import Source
from pipelines.data.table import verify
from pipelines.data.table.schema import SPLITS, Split, Table, read_manifest
from pipelines.errors import ConfigError, DataError
from pipelines.score.model_info import ModelInfo
from pipelines.system import paths
from pipelines.system.reporter import Reporter

SplitChoice = Literal["auto", "train", "validation", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The selected rows, determined without Spark."""

    config: Config
    """Its data settings are those of the model."""
    source: Source | None
    table: Table | None
    """The existing table if `source` is None."""
    splits: tuple[Split, ...]

    @property
    def dataset(self) -> str:
        return self.source.dataset if self.source is not None else self.table.manifest.dataset if self.table is not None else ""

    def open(self, spark: SparkSession, reporter: Reporter) -> Table:
        """The table, ingested now if it does not exist yet.

        Raises:
            DataError: a line of the source is malformed.
        """
        if self.table is not None:
            return self.table
        assert self.source is not None
        return table.open_or_build(spark, self.config, self.source, reporter)[0]


def select_rows(config: Config, info: ModelInfo, table_uri: str, split: SplitChoice, reporter: Reporter) -> Selection:
    """Select the rows to evaluate on.

    Args:
        config: `data.dataset` names the files if no table is given. The model's image shape, value range and classes override
            the configured ones.
        info: the model.
        table_uri: folder of a table, or empty.
        split: `auto` means the test rows, or all rows of a single libsvm file, which has no test rows of its own.
        reporter: receives progress lines.

    Raises:
        ConfigError: there is no such table or data set.
        DataError: the table is damaged.
    """
    config = dataclasses.replace(config, data=with_model_settings(config.data, info))
    if table_uri:
        return Selection(config=config, source=None, table=open_table(table_uri), splits=_splits(split, "test"))
    source = resolve_source(config.data, reporter)
    has_test_file = any(file_split == "test" for _, file_split in source.files)
    return Selection(config=config, source=source, table=None, splits=_splits(split, "test" if has_test_file else "all"))


def open_table(location: str) -> Table:
    """Open a table written by ingest.

    Raises:
        ConfigError: it is not a table.
        DataError: it is damaged.
    """
    folder = paths.to_python(location, "--table ")
    manifest = read_manifest(folder)
    if manifest is None:
        raise ConfigError(f"--table {location}: not a table (there is no manifest in it); --data takes libsvm files")
    damage = verify.find_damage(folder, manifest)
    if damage is not None:
        raise DataError(f"table {location}: {damage}; ingest it again")
    return Table(location, manifest)


def with_model_settings(data: DataConfig, info: ModelInfo) -> DataConfig:
    """The data settings with image shape, classes and value range replaced by those of the model."""
    data = dataclasses.replace(data, image_shape=info.image_shape, classes=info.num_classes)
    if not info.describes_classes:
        return data
    return dataclasses.replace(data, labels=info.labels, class_names=info.class_names, value_range=info.value_range)


def _splits(choice: SplitChoice, default: Literal["test", "all"]) -> tuple[Split, ...]:
    split = default if choice == "auto" else choice
    return SPLITS if split == "all" else (split,)
