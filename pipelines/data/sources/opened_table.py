"""A Spark table that is open for ingest: its columns are checked, its classes, splits and width are known."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.config import Config, DataConfig
from pipelines.config.columns import Columns
from pipelines.data.formats.arrow_targets import Classes, class_order
from pipelines.data.formats.image_format import ImageFormat
from pipelines.data.sources import table_columns, table_digest, table_pass
from pipelines.data.sources.column_types import ColumnKind
from pipelines.data.sources.frames import Frame, content_of, open_frame, quoted, readable
from pipelines.data.sources.parsed_rows import union
from pipelines.data.sources.table_pass import TableRules
from pipelines.data.table.schema import SPLITS, Split
from pipelines.errors import ConfigError, DataError
from pipelines.system.fingerprint import Fingerprint
from pipelines.system.reporter import Reporter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_SAMPLE_ROWS = 100
_BYTES = (0.0, 255.0)


@dataclass(frozen=True)
class OpenedTable:
    """A table, and how its rows are parsed."""

    frame: Frame
    expressions: tuple[str, ...]
    """The columns that are used (`pipelines.data.sources.table_columns.projection`)."""
    splits: tuple[Split, ...]
    """Splits of its rows, in the order of the source's files."""
    rules: TableRules

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the table's content. Raises DataError if Spark cannot read it."""
        with readable(self.frame.rows.sparkSession, self.frame.location):
            return table_digest.of_frame(self.frame, self.expressions)


def open_tables(
    spark: "SparkSession", locations: Sequence[str], config: Config, reporter: Reporter
) -> tuple[list[OpenedTable], Config]:
    """Open the table of the training rows, and that of the test rows if there is one.

    Returns:
        the tables, and the settings with what the tables say: the number of features and of targets, the names of the classes.

    Raises:
        ConfigError: a column is missing or has the wrong type, or the settings do not match the table.
        DataError: Spark cannot read a table.
    """
    columns = config.data.source_columns
    frames = [open_frame(spark, location) for location in locations]
    for frame in frames:
        table_columns.check(frame, columns, config.data)
    with readable(spark, locations[0]):
        data = _with_width(frames[0], columns, config.data, reporter)
        data, classes = _with_classes(frames[0], columns, data, reporter)
    config = dataclasses.replace(config, data=data)
    config.check()
    tables: list[OpenedTable] = []
    for frame in frames:
        with readable(spark, frame.location):
            splits = _splits(frame, columns) if columns.split else ("test" if tables else "train",)
            target = _image_format(frame, columns, data)
            order = table_digest.file_order(frame) if frame.has_files else None
        first = sum(len(table.splits) for table in tables)
        rules = TableRules(
            inputs=target,
            classes=classes,
            num_targets=data.targets,
            splits={split: first + number for number, split in enumerate(splits)} if columns.split else {"": first},
            file_order=order,
        )
        tables.append(OpenedTable(frame, tuple(table_columns.projection(frame, columns, data)), splits, rules))
    return tables, config


def parsed(tables: Sequence[OpenedTable], keep_bad: bool, images_apart: bool) -> "DataFrame":
    """`PARSED_COLUMNS` of some tables, each of which may be there more than once."""
    frames = [
        table_pass.parsed(table_digest.numbered(table.frame, table.expressions), table.rules, keep_bad, images_apart)
        for number, table in enumerate(tables)
        if tables.index(table) == number
    ]
    return union(frames)


def kind_of(frame: Frame, name: str) -> ColumnKind | None:
    """What a column holds; Spark does not tell upper from lower case."""
    return next(kind for known, kind in frame.kinds.items() if known.lower() == name.lower())


def _image_format(frame: Frame, columns: Columns, data: DataConfig) -> ImageFormat:
    target = ImageFormat(
        shape=data.shape, value_range=data.allowed_range, digits=False, resize=data.resize_pictures, of_model=False
    )
    if len(columns.inputs) > 1:
        return target
    name = columns.inputs[0]
    content = content_of(frame.rows, name, kind_of(frame, name), target)
    is_open = data.value_range == "auto" and content == "encoded"
    return dataclasses.replace(target, content=content, value_range=_BYTES if is_open else target.value_range)


def _with_width(frame: Frame, columns: Columns, data: DataConfig, reporter: Reporter) -> DataConfig:
    """The settings with the number of features and of targets, where the columns tell it."""
    features, targets = data.features, len(columns.label) if len(columns.label) > 1 else data.targets
    if columns.features:
        features = _num_features(frame, columns, data)
        if features != data.features:
            reporter.say(f"{frame.location}: {features} features in {_shown(columns.features)} (data.features)")
    elif features:
        raise ConfigError(f"data.features={features}: name the columns with the features (data.columns.features)")
    if targets != data.targets and data.targets != 1:
        raise ConfigError(f"data.targets={data.targets}: must be {targets}, the number of columns in data.columns.label")
    return dataclasses.replace(data, features=features, targets=targets)


def _num_features(frame: Frame, columns: Columns, data: DataConfig) -> int:
    name = columns.features[0]
    kind = kind_of(frame, name)
    if len(columns.features) == 1 and kind not in ("number", "boolean"):
        if data.features:
            return data.features
        if kind == "binary":
            raise ConfigError(f"data.features: must be set, because the column {name} of {frame.location} holds raw bytes")
        first = frame.rows.where(f"{quoted(name)} IS NOT NULL").selectExpr(quoted(name)).first()
        if first is None:
            raise DataError(f"{frame.location}: no row has a value in the column {name} (data.columns.features)")
        return len(first[0])
    if data.features not in (0, len(columns.features)):
        raise ConfigError(
            f"data.features={data.features}: must be 0 or {len(columns.features)}, the number of columns in data.columns.features"
        )
    return len(columns.features)


def _with_classes(frame: Frame, columns: Columns, data: DataConfig, reporter: Reporter) -> tuple[DataConfig, Classes | None]:
    """The settings with the names of the classes, and the classes as the column of labels holds them."""
    if data.task == "regression":
        return data, None
    name = columns.label[0]
    if kind_of(frame, name) != "text":
        return data, Classes(data.label_values, "data.classes, data.labels")
    if data.class_names or data.labels:
        return data, Classes(data.names, "data.class_names" if data.class_names else "data.labels")
    label = f"cast({quoted(name)} AS string)"
    found = frame.rows.where(f"{label} IS NOT NULL").selectExpr(f"{label} AS label").distinct().limit(data.classes + 1).collect()
    labels = class_order([row.label for row in found])
    shown = _shown(labels)
    if len(labels) > data.classes:
        raise ConfigError(
            f"data.classes={data.classes}: the column {name} of {frame.location} has more labels than that, such as {shown}; set "
            "data.classes to their number, or data.class_names to those that count"
        )
    if len(labels) < data.classes:
        raise ConfigError(
            f"data.classes={data.classes}: the column {name} of {frame.location} has {len(labels)} labels ({shown}); set "
            f"data.classes={len(labels)}"
        )
    reporter.say(f"{frame.location}: classes in this order: {shown} (data.class_names sets another)")
    return dataclasses.replace(data, class_names=labels), Classes(labels, f"the labels in column {name}")


def _splits(frame: Frame, columns: Columns) -> tuple[Split, ...]:
    split = quoted(columns.split)
    found = {row[0] for row in frame.rows.selectExpr(split).distinct().limit(_SAMPLE_ROWS).collect()}
    if "train" not in found:
        shown = _shown(sorted(map(str, found)))
        raise ConfigError(
            f"data.columns.split={columns.split}: no row of {frame.location} is for training; its values are {shown}, where they "
            "must be train, validation or test"
        )
    return tuple(split for split in SPLITS if split in found)


def _shown(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 200 else f"{text[:200]}..."
