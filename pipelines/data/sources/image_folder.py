"""A folder of pictures as a data set: one sub-folder for each class, whose name is the class's.

pets/cat/1.png  pets/dog/7.jpg  ...                             test rows are drawn (ingest.test_fraction)
pets/train/cat/1.png  ...  pets/test/dog/7.jpg  ...             test rows are those of test/
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import DataConfig
from pipelines.data.formats.image_file import CHANNELS, ENDINGS
from pipelines.errors import ConfigError, DataError
from pipelines.system import paths
from pipelines.system.fingerprint import Fingerprint, fingerprint
from pipelines.system.reporter import Reporter

_TRAIN, _TEST = "train", "test"


@dataclass(frozen=True)
class ImageFile:
    name: str
    """Path below the folder of its split, such as cat/1.png."""
    label: int
    """Position of its class."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The pictures of a data set."""

    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    """Location of the folder with the training classes, and of that with the test classes where there is one."""
    pictures: tuple[tuple[ImageFile, ...], ...]
    """Of each folder, by class and name."""


def holds_classes(folder: Path) -> bool:
    """Whether some sub-folder, or a folder in it, holds a file that has the name of a picture."""
    return any(
        _is_picture(file)
        for outer in _folders(folder)
        for inner in (outer, *_folders(outer))
        for file in inner.iterdir()
        if not file.name.startswith(".")
    )


def find(location: str, data: DataConfig, reporter: Reporter) -> ImageFolder:
    """List the pictures of a folder.

    Args:
        location: the folder, in a form that `paths` understands.
        data: `classes` must be the number of sub-folders; `class_names` gives them another order than that of their names.
        reporter: is given a line on classes and splits, and one on files that are left out.

    Raises:
        ConfigError: the settings do not fit the folder.
        DataError: a picture lies outside the folders of classes, or a class has none.
    """
    if data.image_shape[2] not in CHANNELS:
        rule = f"{', '.join(map(str, CHANNELS[:-1]))} or {CHANNELS[-1]} channels for pictures"
        raise ConfigError(f"data.image_shape={list(data.image_shape)}: must have {rule} (grey, RGB, RGBA)")
    root = paths.to_python(location)
    base = location.rstrip("/")
    names = {folder.name for folder in _folders(root)}
    is_split = {_TRAIN, _TEST} <= names and any(_folders(root / _TRAIN))
    if is_split and names != {_TRAIN, _TEST}:
        other = min(names - {_TRAIN, _TEST})
        raise DataError(
            f"{base}/{other}: lies beside train/ and test/; move its pictures into theirs "
            "(validation rows are drawn by ingest.validation_fraction)"
        )
    folders = (f"{base}/{_TRAIN}", f"{base}/{_TEST}") if is_split else (base,)
    class_names = _class_names(data, folders[0])
    listed, left_out = [], []
    for folder in folders:
        found, others = _listed(folder, class_names)
        if not found:
            raise DataError(f"{folder}: holds no pictures; their names end in {', '.join(ENDINGS)}")
        listed.append(found)
        left_out += others
    counts = " and ".join(f"{len(found):,} {what}" for found, what in zip(listed, (_TRAIN, _TEST), strict=False))
    drawn = "" if is_split else ", from which test rows are drawn (ingest.test_fraction)"
    reporter.say(f"{base}: pictures of {len(class_names)} classes ({', '.join(class_names)}), {counts}{drawn}")
    if left_out:
        reporter.say(f"{base}: {len(left_out):,} files are left out, their names are not those of pictures ({left_out[0]})")
    return ImageFolder(class_names=class_names, folders=folders, pictures=tuple(listed))


def digest(folder: str, pictures: tuple[ImageFile, ...]) -> Fingerprint:
    """What tells the pictures of a folder, their names and their classes from others. Raises OSError where one cannot be read."""
    total, num_bytes, root = hashlib.sha256(), 0, paths.to_python(folder)
    for picture in pictures:
        print_ = fingerprint(root / picture.name)
        total.update(f"{picture.label} {print_.sha256} {picture.name}\n".encode("utf-8", "surrogateescape"))
        num_bytes += print_.num_bytes
    return Fingerprint(num_bytes, total.hexdigest())


def _class_names(data: DataConfig, folder: str) -> tuple[str, ...]:
    found = [path.name for path in _folders(paths.to_python(folder))]
    if data.labels not in ((), tuple(range(data.classes))):
        raise ConfigError(f"data.labels={list(data.labels)}: must be empty for pictures, whose class is the name of their folder")
    if data.class_names:
        unknown = sorted(set(found) - set(data.class_names))
        if unknown:
            raise ConfigError(f"data.class_names={list(data.class_names)}: must also name {folder}/{unknown[0]}")
        return data.class_names
    if len(found) != data.classes:
        shown = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")
        raise ConfigError(
            f"data.classes={data.classes}: must be the number of sub-folders in {folder}, which has {len(found)} ({shown})"
        )
    return tuple(found)


def _listed(folder: str, class_names: tuple[str, ...]) -> tuple[tuple[ImageFile, ...], list[str]]:
    """The pictures of a folder, and files in it that are none."""
    root = paths.to_python(folder)
    unknown = [path.name for path in _folders(root) if path.name not in class_names]
    if unknown:
        raise DataError(f"{folder}/{unknown[0]}: is no class of the training pictures ({', '.join(class_names)})")
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
                f"{folder}/{name}/{inner[0].name}: a folder inside a class; pictures lie directly in the folder of their class, "
                "and these below the data set's folder or below its train/ and test/"
            )
        files = [path.name for path in _files(root / name)]
        in_class = [ImageFile(f"{name}/{file}", label) for file in files if _is_picture(Path(file))]
        if not in_class:
            raise DataError(f"{folder}/{name}: holds no pictures; their names end in {', '.join(ENDINGS)}")
        listed += in_class
        others += [f"{folder}/{name}/{file}" for file in files if not _is_picture(Path(file))]
    return tuple(listed), others


def _folders(path: Path) -> list[Path]:
    """Visible sub-folders: by number where all of them are called by one, else by name."""
    found = [Path(entry.path) for entry in _entries(path) if entry.is_dir()]
    if all(folder.name.isdecimal() for folder in found):
        return sorted(found, key=lambda folder: (int(folder.name), folder.name))
    return sorted(found)


def _files(path: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(path) if entry.is_file())


def _entries(path: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        yield from (entry for entry in entries if not entry.name.startswith((".", "_")))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS
