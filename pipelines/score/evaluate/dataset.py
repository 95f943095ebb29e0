"""Which rows a model is judged on: those of a table, or of libsvm files that become one."""

import dataclasses
from collections.abc import Callable
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
from pipelines.score.classifier import ModelInfo
from pipelines.system import paths

SplitChoice = Literal["auto", "train", "validation", "test", "all"]
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The rows, before Spark is there."""

    config: Config
    """With the settings of the data as the model needs them."""
    source: Source | None
    table: Table | None
    """Given, where `source` is None."""
    splits: tuple[Split, ...]

    @property
    def dataset(self) -> str:
        return self.source.dataset if self.source is not None else self.table.manifest.dataset if self.table is not None else ""

    def open(self, spark: SparkSession, report: Report) -> Table:
        """The table, written now where it is not there yet.

        Raises:
            DataError: a line of the source is malformed.
        """
        if self.table is not None:
            return self.table
        assert self.source is not None
        return table.open_or_build(spark, self.config, self.source, report)[0]


def choose(config: Config, info: ModelInfo, table_uri: str, split: SplitChoice, report: Report) -> Choice:
    """Find the rows.

    Args:
        config: `data.dataset` names the files where no table is given; what the model says of image shape, value range and
            classes stands above what the configuration says.
        info: the model.
        table_uri: folder of a table, or empty.
        split: `auto` is the test rows, and all rows of a single libsvm file, where no row is a test row by itself.
        report: is given lines for people.

    Raises:
        ConfigError: there is no such table or data set.
        DataError: the table is damaged.
    """
    config = dataclasses.replace(config, data=described(config.data, info))
    if table_uri:
        return Choice(config=config, source=None, table=existing_table(table_uri), splits=_splits(split, "test"))
    source = resolve_source(config.data, report)
    has_test_file = any(of_file == "test" for _, of_file in source.files)
    return Choice(config=config, source=source, table=None, splits=_splits(split, "test" if has_test_file else "all"))


def existing_table(location: str) -> Table:
    """A table that ingest wrote.

    Raises:
        ConfigError: it is none.
        DataError: it is damaged.
    """
    folder = paths.to_python(location)
    manifest = read_manifest(folder)
    if manifest is None:
        raise ConfigError(f"--table {location}: not a table (there is no manifest in it); --data takes libsvm files")
    damage = verify.find_damage(folder, manifest)
    if damage is not None:
        raise DataError(f"table {location}: {damage}; ingest it again")
    return Table(location, manifest)


def described(data: DataConfig, info: ModelInfo) -> DataConfig:
    """The settings of the data, with all that the model says of them."""
    data = dataclasses.replace(data, image_shape=info.image_shape, classes=info.num_classes)
    if not info.describes_classes:
        return data
    return dataclasses.replace(data, labels=info.labels, class_names=info.class_names, value_range=info.value_range)


def _splits(chosen: SplitChoice, automatic: Literal["test", "all"]) -> tuple[Split, ...]:
    split = automatic if chosen == "auto" else chosen
    return SPLITS if split == "all" else (split,)
