"""A folder of pictures as a data set, with one sub-folder per class, named after it.

pets/cat/1.png  pets/dog/7.jpg  ...                             test rows are drawn (ingest.test_fraction)
pets/train/cat/1.png  ...  pets/test/dog/7.jpg  ...             test rows are those in test/
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pipelines.config import Config, DataConfig
from pipelines.data.formats.image_file import CHANNELS, ENDINGS
from pipelines.data.formats.libsvm import is_libsvm
from pipelines.data.sources import image_pass
from pipelines.data.sources.source import Source, refuse_test_file, short_name
from pipelines.data.table.schema import ReadingRules, Split
from pipelines.errors import ConfigError, DataError
from pipelines.system import paths
from pipelines.system.fingerprint import Fingerprint, fingerprint
from pipelines.system.listing import entries
from pipelines.system.path_rules import fault, printable
from pipelines.system.reporter import Reporter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TRAIN, _TEST = "train", "test"


class ImageFile(NamedTuple):
    name: str
    """Path below the folder of its split, such as cat/1.png."""
    label: int
    """Class index."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A `Source` (`pipelines.data.sources.source`) of pictures."""

    dataset: str
    files: tuple[tuple[str, Split], ...]
    """The folder with the training classes, and the folder with the test classes if there is one."""
    classes: tuple[str, ...]
    pictures: tuple[tuple[ImageFile, ...], ...]
    """Pictures of each folder, ordered by class and name."""
    note: str = ""
    as_digits: bool = False
    """Convert the pictures to MNIST's format, for a model that was trained on it."""

    needs_spark: ClassVar[bool] = False
    unit: ClassVar[str] = "picture"
    row_form: ClassVar[str] = "a picture in the folder of its class"
    remedy: ClassVar[str] = "fix or remove it"

    @classmethod
    def recognizes(cls, location: str) -> bool:
        path = paths.to_python(location)
        return path.is_dir() and _holds_classes(path) and not any(is_libsvm(file) for file in _files(path))

    @classmethod
    def find(cls, data: DataConfig, reporter: Reporter) -> "ImageFolder":
        refuse_test_file(data)
        if data.features:
            raise ConfigError(f"data.features={data.features}: must be 0 for pictures ({data.dataset}); set data.image_shape")
        if data.task == "regression":
            raise ConfigError(f"data.task=regression: must be classification for pictures in folders of classes ({data.dataset})")
        return _listed_folder(data, reporter)

    def opened(self, spark: "SparkSession", config: Config, reporter: Reporter) -> tuple[Source, Config]:
        return self, config

    def class_names(self, data: DataConfig) -> tuple[str, ...]:
        return self.classes

    def key_settings(self, data: DataConfig) -> dict[str, Any]:
        # Tables without the conversion had their keys before there was one.
        return {"resize_pictures": data.resize_pictures} | ({"as_digits": True} if self.as_digits else {})

    def reading(self, data: DataConfig) -> ReadingRules:
        return ReadingRules(source="pictures", resize_pictures=data.resize_pictures)

    def fingerprint(self, file: int) -> Fingerprint:
        """Fingerprint over the names, classes and contents of the pictures in a folder."""
        total, num_bytes, root = hashlib.sha256(), 0, paths.to_python(self.files[file][0])
        for picture in self.pictures[file]:
            content = fingerprint(root / picture.name)
            total.update(f"{picture.label} {content.sha256} {picture.name}\n".encode("utf-8", "surrogateescape"))
            num_bytes += content.num_bytes
        return Fingerprint(num_bytes, total.hexdigest())

    def check(self) -> None:
        pass

    def explain_failure(self) -> None:
        pass

    def locate(self, file: int, number: int) -> tuple[str, int | None]:
        return printable(f"{self.files[file][0]}/{self.pictures[file][number].name}"), None

    def parsed(self, spark: "SparkSession", data: DataConfig, *, keep_bad_rows: bool, images_apart: bool) -> "DataFrame":
        folders = [(paths.to_python(uri), pictures) for (uri, _), pictures in zip(self.files, self.pictures, strict=True)]
        rules = image_pass.PictureRules.from_config(data, as_digits=self.as_digits)
        return image_pass.parsed(spark, folders, rules, keep_bad_rows, images_apart)

    def blocks(self, spark: "SparkSession", data: DataConfig) -> None:
        return None


def _holds_classes(folder: Path) -> bool:
    """Whether some sub-folder, or a folder in it, contains a file with the ending of a picture."""
    return any(_is_picture(file) for outer in _folders(folder) for inner in (outer, *_folders(outer)) for file in _files(inner))


def _listed_folder(data: DataConfig, reporter: Reporter) -> ImageFolder:
    """List the pictures of `data.dataset`.

    Args:
        data: `classes` must be the number of sub-folders; `class_names` can reorder them.
        reporter: receives a line about classes and splits, and one about ignored files.

    Raises:
        ConfigError: the settings do not match the folder.
        DataError: a picture is not in the folder of a class, or a class has no pictures.
    """
    if data.image_shape[2] not in CHANNELS:
        rule = f"{', '.join(map(str, CHANNELS[:-1]))} or {CHANNELS[-1]} channels for pictures"
        raise ConfigError(f"data.image_shape={list(data.image_shape)}: must have {rule} (gray, RGB, RGBA)")
    root = paths.to_python(data.dataset)
    base = data.dataset.rstrip("/")
    names = {folder.name for folder in _folders(root)}
    is_split = {_TRAIN, _TEST} <= names and any(_folders(root / _TRAIN))
    if is_split and names != {_TRAIN, _TEST}:
        other = min(names - {_TRAIN, _TEST})
        raise DataError(
            f"{base}/{other}: is next to train/ and test/; move its pictures into these "
            "(validation rows are drawn by ingest.validation_fraction)"
        )
    folders = (f"{base}/{_TRAIN}", f"{base}/{_TEST}") if is_split else (base,)
    class_names = _class_names(data, folders[0])
    listed, ignored = [], []
    for folder in folders:
        pictures, others = _list_pictures(folder, class_names)
        if not pictures:
            raise DataError(f"{folder}: contains no pictures; their names end in {', '.join(ENDINGS)}")
        listed.append(pictures)
        ignored += others
    counts = " and ".join(f"{len(pictures):,} {split}" for pictures, split in zip(listed, (_TRAIN, _TEST), strict=False))
    drawn = "" if is_split else ", from which test rows are drawn (ingest.test_fraction)"
    reporter.say(f"{base}: pictures of {len(class_names)} classes ({', '.join(class_names)}), {counts}{drawn}")
    if ignored:
        count = "1 file" if len(ignored) == 1 else f"{len(ignored):,} files"
        reporter.say(f"{base}: {count} ignored, not named like a picture ({ignored[0]})")
    splits: tuple[Split, ...] = ("train", "test")
    files = tuple(zip(folders, splits, strict=False))
    return ImageFolder(dataset=short_name(root.name), files=files, classes=class_names, pictures=tuple(listed))


def _class_names(data: DataConfig, folder: str) -> tuple[str, ...]:
    names = [path.name for path in _folders(paths.to_python(folder))]
    unfit = next((name for name in names if fault(name)), "")
    if unfit:
        raise ConfigError(f"{folder}/{printable(unfit)}: the name of a class {fault(unfit)}")
    if data.labels not in ((), tuple(range(data.classes))) and not data.class_names:
        raise ConfigError(f"data.labels={list(data.labels)}: must be empty for pictures, whose class is the name of their folder")
    if data.class_names:
        unknown = sorted(set(names) - set(data.class_names))
        if unknown:
            raise ConfigError(f"data.class_names={list(data.class_names)}: must also name {folder}/{unknown[0]}")
        return data.class_names
    if len(names) != data.classes:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise ConfigError(
            f"data.classes={data.classes}: must be the number of sub-folders in {folder}, which has {len(names)} ({shown})"
        )
    return tuple(names)


def _list_pictures(folder: str, class_names: tuple[str, ...]) -> tuple[tuple[ImageFile, ...], list[str]]:
    """The pictures in a folder, and the files in it that are not pictures."""
    root = paths.to_python(folder)
    unknown = [path.name for path in _folders(root) if path.name not in class_names]
    if unknown:
        raise DataError(f"{folder}/{unknown[0]}: is not a class of the training pictures ({', '.join(class_names)})")
    outside = [path.name for path in _files(root)]
    stray = [name for name in outside if _is_picture(Path(name))]
    if stray:
        raise DataError(f"{folder}/{stray[0]}: this picture has no class; move it into the sub-folder of its class")
    listed, others = [], [f"{folder}/{name}" for name in outside]
    for label, name in enumerate(class_names):
        if not (root / name).is_dir():
            continue
        inner = _folders(root / name)
        if inner:
            raise DataError(
                f"{folder}/{name}/{inner[0].name}: a folder inside a class; pictures must be directly in the folder of their "
                "class, and these in the data set's folder or in its train/ and test/"
            )
        files = [path.name for path in _files(root / name)]
        in_class = [ImageFile(f"{name}/{file}", label) for file in files if _is_picture(Path(file))]
        if not in_class:
            raise DataError(f"{folder}/{name}: contains no pictures; their names end in {', '.join(ENDINGS)}")
        listed += in_class
        others += [f"{folder}/{name}/{file}" for file in files if not _is_picture(Path(file))]
    return tuple(listed), others


def _folders(path: Path) -> list[Path]:
    """Visible sub-folders, sorted numerically if all names are numbers, otherwise by name."""
    folders = [Path(entry.path) for entry in entries(path) if entry.is_dir()]
    if all(folder.name.isdecimal() for folder in folders):
        return sorted(folders, key=lambda folder: (int(folder.name), folder.name))
    return sorted(folders)


def _files(path: Path) -> list[Path]:
    return [Path(entry.path) for entry in entries(path) if entry.is_file()]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS
