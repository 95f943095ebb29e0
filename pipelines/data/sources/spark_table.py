"""Tables and files that Spark reads: `table:catalog.schema.name`, `parquet:PATH` or another format.

`data.columns` says which column holds what.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.config import Config, DataConfig
from pipelines.data.sources.source import NotThere, Source, short_name
from pipelines.data.table.schema import ReadingRules, Split
from pipelines.errors import ConfigError
from pipelines.system import paths, spark_location
from pipelines.system.fingerprint import Fingerprint, json_sha256
from pipelines.system.reporter import Reporter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from pipelines.data.sources.opened_table import OpenedTable


@dataclass(frozen=True)
class SparkTable:
    """A `Source` (`pipelines.data.sources.source`) of the rows of one table, or of one for training and one for testing."""

    dataset: str
    files: tuple[tuple[str, Split], ...]
    """Locations. A table with a column of splits is there once for each split."""
    note: str = ""
    """The version of a Delta table."""
    tables: tuple["OpenedTable", ...] = ()
    """The table of each file, once it is opened. Workers do without."""

    needs_spark: ClassVar[bool] = True
    unit: ClassVar[str] = "row"
    row_form: ClassVar[str] = "a row of the table, with an input and a label (data.columns)"
    remedy: ClassVar[str] = "fix the table"

    @classmethod
    def recognizes(cls, location: str) -> bool:
        return spark_location.parse(location) is not None

    @classmethod
    def find(cls, data: DataConfig, reporter: Reporter) -> "SparkTable":
        files: list[tuple[str, Split]] = [(data.dataset, "train")]
        if data.test_file and data.source_columns.split:
            raise ConfigError(
                f"data.test_file={data.test_file}: must be empty with data.columns.split, which says which rows are for testing"
            )
        if data.test_file in (data.dataset, ""):
            files += [(data.dataset, "test")] if data.source_columns.split else []
        else:
            files.append((data.test_file, "test"))
        if data.test_file == data.dataset:
            raise ConfigError(f"data.test_file={data.test_file}: must not be the training data (data.dataset); leave it empty")
        for location, _ in files:
            parsed = spark_location.parse(location)
            if parsed is None:
                raise ConfigError(f"data.test_file={location}: must be table:NAME or FORMAT:PATH, as data.dataset is")
            if parsed.is_path and not paths.to_python(parsed.name).exists():
                raise NotThere(f"{location}: no such file or folder ({paths.to_python(parsed.name)})")
        return cls(short_name(spark_location.short(data.dataset)), tuple(files))

    def opened(self, spark: "SparkSession", config: Config, reporter: Reporter) -> tuple[Source, Config]:
        # Slow to import, and not needed for sources of other kinds.
        from pipelines.data.sources import opened_table

        locations = list(dict.fromkeys(uri for uri, _ in self.files))
        tables, config = opened_table.open_tables(spark, locations, config, reporter)
        files = tuple((table.frame.location, split) for table in tables for split in table.splits)
        of_files = tuple(table for table in tables for _ in table.splits)
        versions = [f"Delta version {table.frame.version} of {table.frame.location}" for table in tables if table.frame.version]
        return dataclasses.replace(self, files=files, tables=of_files, note="; ".join(versions)), config

    def class_names(self, data: DataConfig) -> tuple[str, ...]:
        return data.names

    def key_settings(self, data: DataConfig) -> dict[str, Any]:
        columns = data.source_columns.as_setting()
        columns.pop("id", None)
        return {"columns": columns, "class_names": data.class_names, "resize_pictures": data.resize_pictures}

    def reading(self, data: DataConfig) -> ReadingRules:
        columns = data.source_columns.as_setting()
        return ReadingRules(source="table", resize_pictures=data.resize_pictures, columns=columns)

    def fingerprint(self, file: int) -> Fingerprint:
        table, (location, split) = self.tables[file], self.files[file]
        if self.tables.index(table) < file:
            # The first split of a table stands for its content.
            return Fingerprint(0, json_sha256({"location": location, "split": split}))
        return table.fingerprint()

    def check(self) -> None:
        pass

    def explain_failure(self) -> None:
        pass

    def locate(self, file: int, number: int) -> tuple[str, int | None]:
        return self.files[file][0], None

    def parsed(self, spark: "SparkSession", data: DataConfig, *, keep_bad_rows: bool, images_apart: bool) -> "DataFrame":
        from pipelines.data.sources import opened_table

        return opened_table.parsed(self.tables, keep_bad_rows, images_apart)

    def blocks(self, spark: "SparkSession", data: DataConfig) -> None:
        return None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"tables": ()}
