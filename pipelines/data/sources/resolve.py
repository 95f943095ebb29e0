"""From what a user calls the data to the libsvm files, or the folders of pictures, that hold it."""

import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.config import DataConfig
from pipelines.data.sources import downloads, image_folder
from pipelines.data.sources.image_folder import ImageFolder
from pipelines.errors import ConfigError, DataError
from pipelines.system import paths
from pipelines.system.reporter import Reporter

MNIST_FOLDER = "dbfs:/databricks-datasets/mnist-digits/data-001"
_FASHION_FOLDER = "dbfs:/convoy/fashion-mnist"
_SUBSTITUTE_FOLDER = "dbfs:/convoy/mnist-5k"
_ENDINGS = (".txt", ".libsvm", ".svm", ".t")
_COMPRESSIONS = ("", ".bz2", ".gz")
_SUBSTITUTE_NOTE = (
    "SUBSTITUTE: 5,000 of the 70,000 digits of MNIST, because the whole set could not be fetched; accuracies are lower"
)

_LOOK_AGAIN_SECONDS = 0.2

NAMES = ("mnist", "mnist-5k", "fashion-mnist")

SourceSplit = Literal["train", "test"]


@dataclass(frozen=True)
class Source:
    """The files of a data set."""

    dataset: str
    """A short name, fit for a folder."""
    files: tuple[tuple[str, SourceSplit], ...]
    """Location of each file, in a form that `paths` understands, and the split of its rows. Of pictures: each folder."""
    note: str = ""
    """What a user must know about the data, or nothing."""
    pictures: ImageFolder | None = None
    """What the folders hold; None for libsvm files."""

    @property
    def unit(self) -> str:
        """What a row is read from, for people."""
        return "line" if self.pictures is None else "picture"

    def located(self, file: int, number: int) -> tuple[str, int | None]:
        """Location of the file that holds a row, and the row's line in it, from 1; None in a picture.

        Args:
            file: place in `files`.
            number: of the line or picture among those of the file, from 0.
        """
        uri = self.files[file][0]
        if self.pictures is None:
            return uri, number + 1
        return f"{uri}/{self.pictures.pictures[file][number].name}", None


def resolve_source(data: DataConfig, reporter: Reporter) -> Source:
    """Find the files of `data.dataset`, fetching or converting them where the name asks for it.

    Args:
        data: `dataset` is a name, a libsvm file, a folder of such files or of pictures, or a URI; see `DataConfig`.
        reporter: receives progress.

    Raises:
        ConfigError: the name or path does not lead to a data set.
        DataError: it does, but the data cannot be had on this machine.
    """
    named: dict[str, Callable[[Reporter], Source]] = {"mnist": _mnist, "mnist-5k": _mnist_5k, "fashion-mnist": _fashion_mnist}
    path = None if data.dataset in named else paths.to_python(data.dataset)
    if path is None:
        _refuse_test_file(data)
        return named[data.dataset](reporter)
    return _once_there(lambda: _at(path, data, named, reporter), data, reporter)


class _NotThere(ConfigError):
    """A file or folder is missing, and could still appear."""


def _once_there(look: Callable[[], Source], data: DataConfig, reporter: Reporter) -> Source:
    """Look again for `data.wait_seconds`: on a mounted store a new file is seen on other machines only after a while."""
    deadline = time.monotonic() + data.wait_seconds
    waiting = False
    while True:
        try:
            return look()
        except _NotThere as error:
            # What has no slash is a name, or lies in the working directory, where nothing appears late.
            if "/" not in data.dataset + data.test_file or time.monotonic() >= deadline:
                raise
            if not waiting:
                what = str(error).partition(";")[0]
                reporter.say(f"{what}; looking again for {data.wait_seconds:g} s (data.wait_seconds)")
            waiting = True
            time.sleep(_LOOK_AGAIN_SECONDS)
        except OSError as error:
            raise DataError(
                f"data.dataset={data.dataset}: cannot be read ({error.strerror}); check the path and its permissions"
            ) from error


def _pictures(path: Path, data: DataConfig, reporter: Reporter) -> Source:
    found = image_folder.find(data.dataset, data, reporter)
    splits: tuple[SourceSplit, ...] = ("train", "test")
    return Source(_slug(path.name), tuple(zip(found.folders, splits, strict=False)), pictures=found)


def _at(path: Path, data: DataConfig, names: Iterable[str], reporter: Reporter) -> Source:
    # stat, and not is_dir, which takes a folder that may not be entered for one that is not there.
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _NotThere(
            f"data.dataset={data.dataset}: no such file or folder ({path}); it takes {', '.join(names)}, a libsvm file, "
            "a folder with a *train* and a *test* file or with pictures by class, or a URI such as dbfs:/folder"
        ) from error
    if stat.S_ISDIR(mode):
        _refuse_test_file(data)
        if image_folder.holds_classes(path) and not any(is_libsvm(entry) for entry in path.iterdir()):
            return _pictures(path, data, reporter)
        return Source(_slug(path.name), folder_files(data.dataset))
    if not stat.S_ISREG(mode):
        raise ConfigError(f"data.dataset={data.dataset}: is neither a file nor a folder; copy the data into a file first")
    files: list[tuple[str, SourceSplit]] = [(data.dataset, "train")]
    if data.test_file:
        if not paths.to_python(data.test_file).is_file():
            raise _NotThere(f"data.test_file={data.test_file}: no such file; name a libsvm file or leave it empty")
        files.append((data.test_file, "test"))
    return Source(_slug(path.name), tuple(files))


def _refuse_test_file(data: DataConfig) -> None:
    if data.test_file:
        raise ConfigError(
            f"data.test_file={data.test_file}: must be empty where data.dataset ({data.dataset}) is not a single file; "
            "such a data set has its own test file"
        )


def folder_files(location: str) -> tuple[tuple[str, SourceSplit], ...]:
    """The train and the test file of a folder.

    Raises:
        ConfigError: there is none of a kind, or more than one.
    """
    folder = paths.to_python(location)
    found: list[tuple[str, SourceSplit]] = []
    splits: tuple[SourceSplit, ...] = ("train", "test")
    for split in splits:
        names = sorted(path.name for path in folder.iterdir() if split in path.name and is_libsvm(path))
        if len(names) != 1:
            what = "no file" if not names else f"{len(names)} files ({', '.join(names)})"
            raise (ConfigError if names else _NotThere)(
                f"data.dataset={location}: {what} with '{split}' in the name and an ending of {', '.join(_ENDINGS)} "
                "(or those with .bz2 or .gz); there must be one, or name the files with data.dataset and data.test_file"
            )
        found.append((f"{location.rstrip('/')}/{names[0]}", split))
    return tuple(found)


def _mnist(reporter: Reporter) -> Source:
    folder = paths.to_python(MNIST_FOLDER)
    if not folder.is_dir():
        try:
            downloads.fetch(downloads.MNIST, folder, reporter)
        except downloads.NotFetched as error:
            reporter.say(f"MNIST is not at {MNIST_FOLDER} ({folder}) and could not be fetched: {error}")
            reporter.say(_SUBSTITUTE_NOTE)
            return Source("mnist-5k", _substitute_files(reporter), _SUBSTITUTE_NOTE)
    return Source("mnist", folder_files(MNIST_FOLDER))


def _mnist_5k(reporter: Reporter) -> Source:
    return Source("mnist-5k", _substitute_files(reporter))


def _fashion_mnist(reporter: Reporter) -> Source:
    folder = paths.to_python(_FASHION_FOLDER)
    if not folder.is_dir():
        try:
            downloads.fetch(downloads.FASHION_MNIST, folder, reporter)
        except downloads.NotFetched as error:
            raise DataError(
                f"fashion-mnist could not be fetched: {error}; on Debian, apt-get install dataset-fashion-mnist"
            ) from error
    return Source("fashion-mnist", folder_files(_FASHION_FOLDER))


def _substitute_files(reporter: Reporter) -> tuple[tuple[str, SourceSplit], ...]:
    folder = paths.to_python(_SUBSTITUTE_FOLDER)
    if not folder.is_dir():
        downloads.write_substitute(folder, reporter)
    return folder_files(_SUBSTITUTE_FOLDER)


def is_libsvm(path: Path) -> bool:
    """By its name."""
    return any(path.name.endswith(ending + compression) for ending in _ENDINGS for compression in _COMPRESSIONS)


def _slug(name: str) -> str:
    stem = name
    for ending in (*_COMPRESSIONS[1:], *_ENDINGS):
        stem = stem.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem.lower())[:40] or "data"
