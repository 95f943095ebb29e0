"""Predict the labels of a few images or lines of libsvm text, in this process and without Spark."""

import bz2
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipelines.data.formats import libsvm
from pipelines.data.formats.libsvm_line import Rules
from pipelines.errors import DataError
from pipelines.score.classifier import Classifier
from pipelines.score.digits import read_image
from pipelines.score.model_info import ModelInfo
from pipelines.system import paths

_CHUNK_LINES = 1000


@dataclass(frozen=True)
class Prediction:
    """The model's output for one image."""

    origin: str
    """The image file, or `FILE:LINE`."""
    label: str
    """Name of the most probable class."""
    probabilities: dict[str, float]
    """Probability of each class, by its name."""

    @property
    def probability(self) -> float:
        """Probability of `label`."""
        return self.probabilities[self.label]


def predict(classifier: Classifier, files: Sequence[str], digits: bool) -> Iterator[Prediction]:
    """Predict every image of every file, in order.

    Args:
        classifier: the loaded model.
        files: images (PNG, JPEG, ...) and libsvm files (.txt, .libsvm, .svm, .t; also .gz, .bz2).
        digits: convert pictures to MNIST's format.

    Raises:
        DataError: a file is missing or of neither kind (`FILE: reason`), or a line is malformed (`FILE:LINE: reason`).
    """
    info = classifier.info
    for file in files:
        path = paths.named_file(file)
        if libsvm.is_libsvm(path):
            for numbers, images in _libsvm_images(path, file, info):
                yield from _predictions(classifier, [f"{file}:{number}" for number in numbers], images)
        else:
            image = read_image(path, info.image_shape, info.value_range, digits=digits)
            yield from _predictions(classifier, [file], image[None])


def _predictions(classifier: Classifier, origins: Sequence[str], images: npt.NDArray[Any]) -> Iterator[Prediction]:
    names = classifier.info.class_names
    for origin, row in zip(origins, classifier.probabilities(images), strict=True):
        yield Prediction(origin, names[int(row.argmax())], dict(zip(names, row.tolist(), strict=True)))


def _libsvm_images(path: Path, display_name: str, info: ModelInfo) -> Iterator[tuple[list[int], npt.NDArray[Any]]]:
    """Line numbers (from 1) and images [n, height, width, channels], one chunk of lines at a time."""
    rules = Rules(image_shape=info.image_shape, value_range=info.value_range, labels=info.labels)
    for numbers, lines in _line_chunks(path, display_name):
        chunk = libsvm.parse(b"\n".join(lines) + b"\n", rules)
        if chunk.bad_lines:
            first = chunk.bad_lines[0]
            raise DataError(f"{display_name}:{numbers[first.number]}: {first.fault.text}")
        yield numbers, chunk.images.reshape(-1, *info.image_shape)


def _line_chunks(path: Path, display_name: str) -> Iterator[tuple[list[int], list[bytes]]]:
    """Numbers and contents of the non-empty lines, one chunk at a time."""
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    numbers: list[int] = []
    lines: list[bytes] = []
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.partition(b"#")[0].strip():
                    numbers.append(number)
                    lines.append(line.rstrip(b"\r\n"))
                if len(lines) == _CHUNK_LINES:
                    yield numbers, lines
                    numbers, lines = [], []
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{display_name}: cannot be read ({reason}); check the path and that the file is complete") from error
    if lines:
        yield numbers, lines
