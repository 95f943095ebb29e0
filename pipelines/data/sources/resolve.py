"""From the name or location of a data set to its source."""

import time
from collections.abc import Callable
from pathlib import Path

from pipelines.config import DataConfig
from pipelines.config.data import NAMED_DATASETS
from pipelines.data.sources import downloads
from pipelines.data.sources.image_folder import ImageFolder
from pipelines.data.sources.libsvm_files import LibsvmFiles, folder_files
from pipelines.data.sources.source import NotThere, Source, refuse_test_file
from pipelines.data.sources.spark_table import SparkTable
from pipelines.data.table.schema import Split
from pipelines.errors import ConfigError, DataError
from pipelines.system import paths
from pipelines.system.reporter import Reporter

MNIST_FOLDER = "dbfs:/databricks-datasets/mnist-digits/data-001"
_FASHION_FOLDER = "dbfs:/convoy/fashion-mnist"
_SUBSTITUTE_FOLDER = "dbfs:/convoy/mnist-5k"
_SUBSTITUTE_NOTE = (
    "SUBSTITUTE: 5,000 of the 70,000 digits of MNIST, because the full set could not be downloaded; accuracies are lower"
)

_RETRY_SECONDS = 0.2

# The first class that recognizes a location is used.
KINDS: tuple[type[Source], ...] = (SparkTable, ImageFolder, LibsvmFiles)


def resolve_source(data: DataConfig, reporter: Reporter) -> Source:
    """Find the files of `data.dataset`, downloading and converting them for data sets known by name.

    Args:
        data: `dataset` is a name, a libsvm file, a folder of such files or of pictures, or a URI; see `DataConfig`.
        reporter: receives progress messages.

    Raises:
        ConfigError: there is no such data set.
        DataError: the data set exists but is not available on this machine.
    """
    if data.dataset in _NAMED:
        refuse_test_file(data)
        return _NAMED[data.dataset](reporter)
    return _wait_for(lambda: _find(data, reporter), data, reporter)


def _wait_for(find: Callable[[], Source], data: DataConfig, reporter: Reporter) -> Source:
    """Retry for `data.wait_seconds`: on a mounted store other machines see a new file only after a while."""
    deadline = time.monotonic() + data.wait_seconds
    waiting = False
    while True:
        try:
            return find()
        except NotThere as error:
            # Without a slash it is a name or lies in the working directory, where nothing appears late.
            if "/" not in data.dataset + data.test_file or time.monotonic() >= deadline:
                raise
            if not waiting:
                what = str(error).partition(";")[0]
                reporter.say(f"{what}; retrying for {data.wait_seconds:g} s (data.wait_seconds)")
            waiting = True
            time.sleep(_RETRY_SECONDS)
        except OSError as error:
            inside = error.filename is not None and Path(error.filename) != paths.to_python(data.dataset)
            what = f"{error.filename}: " if inside else ""
            raise DataError(
                f"data.dataset={data.dataset}: {what}cannot be read ({error.strerror}); check the path and its permissions"
            ) from error


def _find(data: DataConfig, reporter: Reporter) -> Source:
    for kind in KINDS:
        if kind.recognizes(data.dataset):
            return kind.find(data, reporter)
    path = paths.to_python(data.dataset)
    if path.exists():
        raise ConfigError(f"data.dataset={data.dataset}: is neither a file nor a folder; copy the data into a file first")
    raise NotThere(
        f"data.dataset={data.dataset}: no such file or folder ({path}); it takes {', '.join(NAMES)}, a libsvm file, "
        "a folder with a *train* and a *test* file or with pictures by class, or a URI such as dbfs:/folder"
    )


def _mnist(reporter: Reporter) -> Source:
    folder = paths.to_python(MNIST_FOLDER)
    if not folder.is_dir():
        try:
            downloads.fetch(downloads.MNIST, folder, reporter)
        except downloads.DownloadError as error:
            reporter.say(f"MNIST is not at {MNIST_FOLDER} ({folder}) and could not be downloaded: {error}")
            reporter.say(_SUBSTITUTE_NOTE)
            return LibsvmFiles("mnist-5k", _substitute_files(reporter), _SUBSTITUTE_NOTE)
    return LibsvmFiles("mnist", folder_files(MNIST_FOLDER))


def _mnist_5k(reporter: Reporter) -> Source:
    return LibsvmFiles("mnist-5k", _substitute_files(reporter))


def _fashion_mnist(reporter: Reporter) -> Source:
    folder = paths.to_python(_FASHION_FOLDER)
    if not folder.is_dir():
        try:
            downloads.fetch(downloads.FASHION_MNIST, folder, reporter)
        except downloads.DownloadError as error:
            raise DataError(
                f"fashion-mnist could not be downloaded: {error}; on Debian, apt-get install dataset-fashion-mnist"
            ) from error
    return LibsvmFiles("fashion-mnist", folder_files(_FASHION_FOLDER))


def _substitute_files(reporter: Reporter) -> tuple[tuple[str, Split], ...]:
    folder = paths.to_python(_SUBSTITUTE_FOLDER)
    if not folder.is_dir():
        downloads.write_substitute(folder, reporter)
    return folder_files(_SUBSTITUTE_FOLDER)


_NAMED: dict[str, Callable[[Reporter], Source]] = dict(zip(NAMED_DATASETS, (_mnist, _mnist_5k, _fashion_mnist), strict=True))
NAMES = NAMED_DATASETS


def has_known_indices(source: Source) -> bool:
    """Whether the files are those of a data set that is known by name, wherever they are."""
    file_names = tuple(f"{name}-" for name in (downloads.MNIST.name, *NAMES))
    return source.dataset in NAMES or all(Path(uri).name.startswith(file_names) for uri, _ in source.files)
