"""libsvm text as a data set: one file, a train and a test file, or a folder with both.

In place of a file there can be a folder of parts, as Spark writes it, or a pattern such as `data/part-*`.
"""

import dataclasses
import re
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.config import Config, DataConfig
from pipelines.data.formats import libsvm_compiled, text_file
from pipelines.data.formats.file_kind import file_kind, is_part_folder, part_names
from pipelines.data.formats.libsvm import COMPRESSIONS, is_libsvm
from pipelines.data.formats.libsvm_line import Rules
from pipelines.data.sources import text_blocks, text_pass
from pipelines.data.sources.parsed_rows import Blocks
from pipelines.data.sources.source import NotThere, Source, refuse_test_file, short_name
from pipelines.data.table.schema import ReadingRules, Split
from pipelines.errors import ConfigError
from pipelines.system import listing, paths
from pipelines.system.fingerprint import Fingerprint, fingerprint
from pipelines.system.reporter import Reporter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class LibsvmFiles:
    """A `Source` (`pipelines.data.sources.source`) of libsvm text."""

    dataset: str
    files: tuple[tuple[str, Split], ...]
    note: str = ""
    any_label: bool = False
    """Labels do not matter (`Rules.any_label`)."""
    index_is_known: bool = False
    """`data.zero_based` is that of a model (`Rules.index_is_known`)."""

    needs_spark: ClassVar[bool] = False
    unit: ClassVar[str] = "line"
    row_form: ClassVar[str] = "a line 'label index:value index:value ...'"
    remedy: ClassVar[str] = "fix the file"

    @classmethod
    def recognizes(cls, location: str) -> bool:
        """True for any file or folder, and for a pattern that some match. More specific kinds come first."""
        path = paths.to_python(location)
        # stat, because is_dir may report a folder without access permission as missing.
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return bool(listing.matching(path))
        return stat.S_ISDIR(mode) or stat.S_ISREG(mode)

    @classmethod
    def find(cls, data: DataConfig, reporter: Reporter) -> "LibsvmFiles":
        path = paths.to_python(data.dataset)
        if path.is_dir() and not is_part_folder(path):
            refuse_test_file(data)
            return cls(short_name(path.name), folder_files(data.dataset))
        files: list[tuple[str, Split]] = [(uri, "train") for uri in text_uris(data.dataset)]
        if data.test_file:
            test_path = paths.to_python(data.test_file)
            if not test_path.is_file() and not is_part_folder(test_path) and not listing.matching(test_path):
                raise NotThere(f"data.test_file={data.test_file}: no such file; name a libsvm file or leave it empty")
            of_training = {_identity(uri) for uri, _ in files}
            if any(_identity(uri) in of_training for uri in text_uris(data.test_file)):
                raise ConfigError(
                    f"data.test_file={data.test_file}: must not be the training file (data.dataset); name another one, or leave "
                    "it empty to draw test rows (ingest.test_fraction)"
                )
            files += [(uri, "test") for uri in text_uris(data.test_file)]
        return cls(short_name(path.name.strip("*?")), tuple(files))

    def opened(self, spark: "SparkSession", config: Config, reporter: Reporter) -> tuple[Source, Config]:
        return self, config

    def class_names(self, data: DataConfig) -> tuple[str, ...]:
        return data.names

    def key_settings(self, data: DataConfig) -> dict[str, Any]:
        return {}

    def reading(self, data: DataConfig) -> ReadingRules:
        return ReadingRules(source="libsvm", zero_based=data.zero_based)

    def fingerprint(self, file: int) -> Fingerprint:
        return fingerprint(paths.to_python(self.files[file][0]))

    def check(self) -> None:
        for uri, _ in self.files:
            text_file.check(uri)

    def explain_failure(self) -> None:
        for uri, _ in self.files:
            text_file.check_whole(uri)

    def locate(self, file: int, number: int) -> tuple[str, int | None]:
        return self.files[file][0], number + 1

    def parsed(self, spark: "SparkSession", data: DataConfig, *, keep_bad_rows: bool, images_apart: bool) -> "DataFrame":
        uris = [uri for uri, _ in self.files]
        return text_pass.parsed(spark, uris, self._rules(data), keep_bad_rows, images_apart)

    def blocks(self, spark: "SparkSession", data: DataConfig) -> Blocks | None:
        files = [paths.to_python(uri) for uri, _ in self.files]
        rules = self._rules(data)
        # Spark splits bz2, and checks a file against its checksum file.
        if not libsvm_compiled.is_installed() or any(map(_needs_spark, files)):
            return None
        parse = partial(text_blocks.read_blocks, rules=rules, images_apart=False)
        return Blocks(text_blocks.blocks_of(spark, list(enumerate(files))), parse)

    def _rules(self, data: DataConfig) -> Rules:
        return dataclasses.replace(Rules.from_config(data), any_label=self.any_label, index_is_known=self.index_is_known)


def folder_files(location: str) -> tuple[tuple[str, Split], ...]:
    """The train and the test file in a folder; each may be a folder of parts.

    Raises:
        ConfigError: either is missing or ambiguous.
    """
    folder = paths.to_python(location)
    names = [entry.name for entry in listing.entries(folder) if not entry.is_dir() or is_part_folder(Path(entry.path))]
    found: list[tuple[str, Split]] = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        named = _text_names(folder, [name for name in names if _names_split(name, split)])
        if len(named) != 1:
            what = "no file" if not named else f"{len(named)} files ({', '.join(named)})"
            raise (ConfigError if named else NotThere)(
                f"data.dataset={location}: {what} with '{split}' in the name (as a word that begins with '{split}'); there must "
                "be one libsvm file, or name the files with data.dataset and data.test_file"
            )
        found.append((f"{location.rstrip('/')}/{named[0]}", split))
    if found[0][0] == found[1][0]:
        raise ConfigError(
            f"{found[0][0]}: has both 'train' and 'test' in its name; name the files with data.dataset and data.test_file"
        )
    return tuple((uri, split) for one, split in found for uri in text_uris(one))


def text_uris(location: str) -> list[str]:
    """The file, the parts of the folder that Spark wrote in its place, or the files and such folders that match the pattern.

    Raises:
        OSError: the folder cannot be read.
        ConfigError: a folder that matches holds no parts.
        DataError: Spark has not finished the folder, or there is nothing in it.
    """
    path = paths.to_python(location)
    if path.is_dir():
        return [f"{location.rstrip('/')}/{name}" for name in part_names(path)]
    found = listing.matching(path)
    other = next((match for match in found if match.is_dir() and not is_part_folder(match)), None)
    if other is not None:
        raise ConfigError(f"{location}: matches the folder {other}, which holds no parts (part-...); match files alone")
    return [uri for match in found for uri in text_uris(str(match))] or [location]


def _needs_spark(file: Path) -> bool:
    return file.suffix in COMPRESSIONS[1:] or file.with_name(f".{file.name}.crc").exists()


def _identity(location: str) -> tuple[int, int]:
    status = paths.to_python(location).stat()
    return status.st_dev, status.st_ino


def _text_names(folder: Path, names: list[str]) -> list[str]:
    """The names of libsvm text among those in a folder: those with its endings and folders of parts, or else all text."""
    named = [name for name in names if is_libsvm(Path(name)) or (folder / name).is_dir()]
    return named or [name for name in names if file_kind(folder / name) == "libsvm"]


def _names_split(name: str, split: Split) -> bool:
    """Whether a word of the name begins with `split`: test-1, Testing and mnistTest, but not latest."""
    return re.search(rf"(?<![a-zA-Z])(?i:{split})|(?<![A-Z]){split.capitalize()}", name) is not None
