"""The interface between sources and ingest. `pipelines.data.sources.resolve` lists the kinds of sources."""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pipelines.config import Config, DataConfig
from pipelines.data.formats.libsvm import COMPRESSIONS, ENDINGS
from pipelines.data.table.schema import ReadingRules, Split
from pipelines.errors import ConfigError
from pipelines.system.fingerprint import Fingerprint
from pipelines.system.reporter import Reporter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from pipelines.data.sources.parsed_rows import Blocks


class Source(Protocol):
    """A data set, and how to parse it. Instances are pickled to Spark's Python workers."""

    unit: ClassVar[str]
    """What one row is parsed from, for messages: `line` or `picture`."""
    row_form: ClassVar[str]
    """What a row looks like, phrased to follow "a row is"."""
    remedy: ClassVar[str]
    """What to do about a malformed row, in the imperative."""

    needs_spark: ClassVar[bool]
    """Whether its files, classes and fingerprints are known only once it is `opened`."""

    @property
    def dataset(self) -> str:
        """A short name, valid as the name of a folder."""

    @property
    def files(self) -> tuple[tuple[str, Split], ...]:
        """Location of each file or folder, in any form that `paths` accepts, and the split of its rows."""

    @property
    def note(self) -> str:
        """What the user must know about the data. Often empty."""

    @classmethod
    def recognizes(cls, location: str) -> bool:
        """Whether `location` (`data.dataset`) is a source of this kind. Raises OSError if it cannot be read."""

    @classmethod
    def find(cls, data: DataConfig, reporter: Reporter) -> "Source":
        """The source at `data.dataset`, which this class recognizes.

        Raises:
            NotThere: a file is missing.
            ConfigError: the settings do not match the files.
            DataError: the files are unusable.
        """

    def opened(self, spark: "SparkSession", config: Config, reporter: Reporter) -> tuple["Source", Config]:
        """The source with all that is known about it, and the settings with what it adds to them. Ingest calls it first.

        Raises:
            ConfigError: the settings do not match the source.
            DataError: the source is unusable.
        """

    def class_names(self, data: DataConfig) -> tuple[str, ...]:
        """Names of the classes, by class index."""

    def key_settings(self, data: DataConfig) -> dict[str, Any]:
        """Settings that affect the rows of this kind of source only. They become part of the table's key."""

    def reading(self, data: DataConfig) -> ReadingRules:
        """How the rows are read, recorded with the table and with the models trained on it."""

    def fingerprint(self, file: int) -> Fingerprint:
        """Fingerprint of `files[file]`. Raises OSError if it cannot be read."""

    def check(self) -> None:
        """Check the files before Spark reads them. Raises DataError naming file and remedy."""

    def explain_failure(self) -> None:
        """Find out why Spark could not read the files. Raises DataError if a file is damaged."""

    def locate(self, file: int, number: int) -> tuple[str, int | None]:
        """Location of a row's file, and its line in it, from 1; None if the file has no lines.

        Args:
            file: position in `files`.
            number: index of the line or picture among those of the file, from 0.
        """

    def parsed(self, spark: "SparkSession", data: DataConfig, *, keep_bad_rows: bool, images_apart: bool) -> "DataFrame":
        """The rows, as `PARSED_COLUMNS` (`pipelines.data.sources.parsed_rows`).

        Args:
            spark: the session.
            data: what a row may contain.
            keep_bad_rows: keep malformed rows in the frame; otherwise they are only counted.
            images_apart: one image per Spark row instead of hundreds.
        """

    def blocks(self, spark: "SparkSession", data: DataConfig) -> "Blocks | None":
        """The same in blocks, which several jobs can parse; None if to parse them costs more than to keep their rows."""


class NotThere(ConfigError):
    """A file or folder is missing but may still appear."""


def refuse_test_file(data: DataConfig) -> None:
    """Raises ConfigError if `data.test_file` is set. For sources that are not a single file."""
    if data.test_file:
        raise ConfigError(
            f"data.test_file={data.test_file}: must be empty where data.dataset ({data.dataset}) is not a single file; "
            "such a data set has its own test file"
        )


def short_name(name: str) -> str:
    """Derive a source's `dataset` from the name of a file or folder."""
    for ending in (*COMPRESSIONS[1:], *ENDINGS):
        name = name.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name.lower())[:40] or "data"
