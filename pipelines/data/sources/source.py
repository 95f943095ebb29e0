"""What every kind of source offers to ingest. `pipelines.data.sources.resolve` lists the kinds."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pipelines.config import DataConfig
from pipelines.data.formats.libsvm import COMPRESSIONS, ENDINGS
from pipelines.errors import ConfigError
from pipelines.system.fingerprint import Fingerprint
from pipelines.system.reporter import Reporter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SourceSplit = Literal["train", "test"]


class Source(Protocol):
    """A data set and how it becomes rows. It is pickled to Spark's Python workers."""

    unit: ClassVar[str]
    """What one row is read from, in messages: `line` or `picture`."""
    row_form: ClassVar[str]
    """What a row looks like, to read after "a row is"."""
    remedy: ClassVar[str]
    """What to do about a malformed row, as an imperative."""

    @property
    def dataset(self) -> str:
        """A short name, valid as the name of a folder."""

    @property
    def files(self) -> tuple[tuple[str, SourceSplit], ...]:
        """Location of each file or folder, in a form that `paths` understands, and the split of its rows."""

    @property
    def note(self) -> str:
        """What a user must know about the data. Empty otherwise."""

    @classmethod
    def recognizes(cls, location: str) -> bool:
        """Whether `data.dataset` names a source of this kind. Raises OSError where the location cannot be read."""

    @classmethod
    def find(cls, data: DataConfig, reporter: Reporter) -> "Source":
        """The source at `data.dataset`, which this kind recognizes.

        Raises:
            NotThere: a file is missing.
            ConfigError: the settings do not fit the files.
            DataError: the files cannot be used.
        """

    def class_names(self, data: DataConfig) -> tuple[str, ...]:
        """Names of the classes, by label."""

    def key_settings(self, data: DataConfig) -> dict[str, Any]:
        """Settings that decide the rows of this kind of source alone. They become part of the table's key."""

    def fingerprint(self, file: int) -> Fingerprint:
        """Fingerprint of `files[file]`. Raises OSError where it cannot be read."""

    def check(self) -> None:
        """Look at the files before Spark reads them. Raises DataError, naming file and remedy."""

    def explain_failure(self) -> None:
        """Look for the reason why Spark could not read the files. Raises DataError where there is one."""

    def locate(self, file: int, number: int) -> tuple[str, int | None]:
        """Location of the file that holds a row, and the row's line in it, from 1; None where it has no lines.

        Args:
            file: position in `files`.
            number: of the row's unit among those of the file, from 0.
        """

    def parsed(self, spark: "SparkSession", data: DataConfig, *, keep_bad_rows: bool, images_apart: bool) -> "DataFrame":
        """The rows, as `PARSED_COLUMNS` (`pipelines.data.sources.parsed_rows`).

        Args:
            spark: reads the files.
            data: what a row may hold.
            keep_bad_rows: malformed rows are in the frame; otherwise they are only counted.
            images_apart: one image for each row of the frame instead of hundreds.
        """


class NotThere(ConfigError):
    """A file or folder is missing, and could still appear."""


def refuse_test_file(data: DataConfig) -> None:
    """Raises ConfigError where `data.test_file` is set, for a source that is not a single file."""
    if data.test_file:
        raise ConfigError(
            f"data.test_file={data.test_file}: must be empty where data.dataset ({data.dataset}) is not a single file; "
            "such a data set has its own test file"
        )


def short_name(name: str) -> str:
    """The name of a file or folder as a source's `dataset`."""
    for ending in (*COMPRESSIONS[1:], *ENDINGS):
        name = name.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name.lower())[:40] or "data"
