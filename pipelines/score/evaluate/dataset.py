"""The rows a model is evaluated on: those of an existing table, or of libsvm files that are ingested into one."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import SparkSession

from pipelines.config import Config, DataConfig
from pipelines.data.ingest import table
from pipelines.data.sources.image_folder import ImageFolder
from pipelines.data.sources.libsvm_files import LibsvmFiles
from pipelines.data.sources.resolve import resolve_source
from pipelines.data.sources.source import Source
from pipelines.data.sources.spark_table import SparkTable
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
        config: `data.dataset` names the files if no table is given. What the model knows overrides what is configured.
        info: the model.
        table_uri: folder of a table, or empty.
        split: `auto` means the test rows, or all rows of a single libsvm file, which has no test rows of its own.
        reporter: receives progress lines.

    Raises:
        ConfigError: there is no such table or data set, or its configured classes are not those of the model.
        DataError: the table is damaged.
    """
    if table_uri:
        config = dataclasses.replace(config, data=with_model_settings(config.data, info))
        return Selection(config=config, source=None, table=open_table(table_uri), splits=_splits(split, "test"))
    data = _with_named_classes(with_model_settings(config.data, info), config.data, info)
    if config.data.zero_based and not data.zero_based:
        reporter.say(f"data.zero_based=true does not apply: model {info.uri} was trained on indices from 1")
    config = dataclasses.replace(config, data=data)
    source = resolve_source(data, reporter)
    if isinstance(source, LibsvmFiles):
        source = dataclasses.replace(source, index_is_known=info.knows_indices)
    if isinstance(source, ImageFolder) and info.converts_to_digits("auto"):
        reporter.say(f"{data.dataset}: the pictures are converted to MNIST's format, on which model {info.uri} was trained")
        source = dataclasses.replace(source, as_digits=True)
    has_test_file = any(file_split == "test" for _, file_split in source.files)
    return Selection(config=config, source=source, table=None, splits=_splits(split, "test" if has_test_file else "all"))


def check_read_alike(selection: Selection, infos: Sequence[ModelInfo]) -> None:
    """Raises ConfigError if files are to be read in one way for one model and in another for another."""
    if selection.source is None:
        return
    location = selection.config.data.dataset
    first, *others = infos
    for info in others:
        if isinstance(selection.source, ImageFolder):
            differ = first.converts_to_digits("auto") != info.converts_to_digits("auto")
            what = "the pictures converted to MNIST's format"
        elif isinstance(selection.source, SparkTable):
            differ = (first.reading and first.reading.columns) != (info.reading and info.reading.columns)
            what = "these columns"
        else:
            configured = selection.config.data.zero_based
            differ = first.zero_based(configured) != info.zero_based(configured)
            what = "indices that start at 0"
        if differ:
            raise ConfigError(
                f"--data {location}: only one of the models {first.uri} and {info.uri} was trained on {what}, so they cannot be "
                "compared on the same rows of it; give --table FOLDER with rows that suit both, or train one anew"
            )


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
    """The data settings with those replaced that the model knows from its training."""
    if info.is_of_pictures:
        data = dataclasses.replace(data, image_shape=info.image_shape, features=0)
    else:
        data = dataclasses.replace(data, features=info.image_shape[0])
    data = dataclasses.replace(
        data,
        task=info.task,
        targets=len(info.target_names) or 1,
        classes=info.num_classes or data.classes,
        labels=(),
        class_names=(),
        scaling=info.scaling,
    )
    if info.describes_classes:
        value_range: tuple[float, ...] | Literal["auto"] = "auto" if info.range_was_read else info.value_range
        data = dataclasses.replace(data, labels=info.labels, class_names=info.class_names, value_range=value_range)
    if info.reading is not None:
        resize = info.is_of_pictures and (data.resize_pictures or info.resizes_pictures("auto"))
        data = dataclasses.replace(data, resize_pictures=resize, columns=data.columns or info.reading.columns)
    return dataclasses.replace(data, zero_based=info.zero_based(data.zero_based))


def _with_named_classes(data: DataConfig, configured: DataConfig, info: ModelInfo) -> DataConfig:
    """The model's data settings with the label values and class names that the user configured.

    Raises:
        ConfigError: they are not those of the model.
    """
    if info.task == "regression":
        return data
    if not info.describes_classes:
        return dataclasses.replace(data, labels=configured.labels, class_names=configured.class_names)
    if configured.labels and set(configured.labels) != set(info.labels):
        raise ConfigError(
            f"data.labels={list(configured.labels)}: must be those of model {info.uri}, {list(info.labels)}; leave them out to "
            "take them from the model"
        )
    if not configured.class_names:
        return data
    if set(configured.class_names) != set(info.class_names):
        raise ConfigError(
            f"data.class_names={list(configured.class_names)}: must be the names that model {info.uri} knows, in any order: "
            f"{', '.join(info.class_names)}; leave them out to take them from the model"
        )
    return dataclasses.replace(data, labels=configured.labels or info.labels, class_names=configured.class_names)


def _splits(choice: SplitChoice, default: Literal["test", "all"]) -> tuple[Split, ...]:
    split = default if choice == "auto" else choice
    return SPLITS if split == "all" else (split,)
