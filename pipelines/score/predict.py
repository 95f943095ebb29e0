"""Predict the labels, or numbers, of a few images or lines of libsvm text, in this process and without Spark."""

import bz2
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from pipelines.data.formats import libsvm, text_file
from pipelines.data.formats.digits import read_image
from pipelines.data.formats.file_kind import FileKind, files_by_kind
from pipelines.data.formats.libsvm_line import ANY_VALUE, Rules
from pipelines.errors import DataError
from pipelines.score.classifier import Classifier
from pipelines.system import paths
from pipelines.system.path_rules import printable

_CHUNK_LINES = 1000


@dataclass(frozen=True)
class Prediction:
    """The model's output for one image."""

    origin: str
    """The image file, or `FILE:LINE`."""
    outputs: dict[str, float]
    """Probability of each class, or each number, by its name."""
    has_classes: bool = True

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return max(self.outputs, key=self.outputs.__getitem__)

    @property
    def probabilities(self) -> dict[str, float]:
        """`outputs` of a classification."""
        return self.outputs

    @property
    def probability(self) -> float:
        """Probability of `label`."""
        return self.outputs[self.label]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        if not self.has_classes:
            return {"file": self.origin, "prediction": self.outputs}
        return {"file": self.origin, "label": self.label, "probability": self.probability, "probabilities": self.outputs}

    def __str__(self) -> str:
        if not self.has_classes:
            return f"{self.origin}  {'  '.join(f'{name} {value:.6g}' for name, value in self.outputs.items())}"
        return f"{self.origin}  {self.label}  {self.probability:.4f}"


def predict(
    classifier: Classifier, files: Sequence[str], digits: bool, *, resize: bool = True, zero_based: bool = False
) -> Iterator[Prediction]:
    """Predict every image of every file, in order.

    Args:
        classifier: the loaded model.
        files: images (PNG, JPEG, ...), libsvm text (also .gz, .bz2; labels do not matter), and folders of either.
        digits: convert pictures to MNIST's format.
        resize: resize pictures of another size.
        zero_based: indices of libsvm text start at 0.

    Raises:
        DataError: a file is missing or of neither kind (`FILE: reason`), or a line is malformed (`FILE:LINE: reason`).
    """
    info = classifier.info
    rules = Rules(
        shape=info.image_shape,
        value_range=info.value_range if not info.range_was_read else ANY_VALUE,
        labels=info.labels,
        num_targets=len(info.target_names),
        first_index=0 if zero_based else 1,
        any_label=True,
        index_is_known=info.knows_indices,
    )
    for file in find_inputs(files):
        if file.kind == "libsvm":
            for numbers, images in _libsvm_images(file.path, file.name, rules):
                yield from _predictions(classifier, [f"{file.name}:{number}" for number in numbers], images)
        elif not info.is_of_pictures:
            raise DataError(f"{file.name}: is a picture, but the model takes {info.image_shape[0]} features; name libsvm text")
        else:
            image = read_image(file.path, info.image_shape, info.value_range, digits=digits, resize=resize)
            yield from _predictions(classifier, [file.name], image[None])


class NamedFile(NamedTuple):
    name: str
    """For messages: as the user wrote it."""
    path: Path
    kind: FileKind


def find_inputs(files: Sequence[str]) -> list[NamedFile]:
    """The files to predict, with those in folders. Raises DataError for one that is missing or neither text nor a picture."""
    return [found for file in files for found in _found(file)]


def _found(file: str) -> Iterator[NamedFile]:
    path = paths.to_python(paths.given(file))
    try:
        by_kind = files_by_kind(path)
    except OSError as error:
        shown = error.filename if path.is_dir() else file
        raise DataError(f"{shown}: cannot be read ({error.strerror or error}); check the path and its permissions") from error
    if list(by_kind) not in (["libsvm"], ["picture"]):
        content = " and ".join(f"{len(found)} of kind {kind}" for kind, found in by_kind.items()) or "no files with content"
        raise DataError(f"{file}: contains {content}; name pictures or libsvm text, or score it with ./convoy score")
    for kind, found in by_kind.items():
        for one in found:
            yield NamedFile(printable(file if one == path else f"{file.rstrip('/')}/{one.relative_to(path)}"), one, kind)


def _predictions(classifier: Classifier, origins: Sequence[str], images: npt.NDArray[Any]) -> Iterator[Prediction]:
    info = classifier.info
    for origin, row in zip(origins, classifier.outputs(images), strict=True):
        outputs = dict(zip(info.class_names or info.target_names, row.tolist(), strict=True))
        yield Prediction(origin, outputs, has_classes=bool(info.class_names))


def _libsvm_images(path: Path, display_name: str, rules: Rules) -> Iterator[tuple[list[int], npt.NDArray[Any]]]:
    """Line numbers (from 1) and images [n, height, width, channels], one chunk of lines at a time."""
    text_file.check(str(path.absolute()))
    for numbers, lines in _line_chunks(path, display_name):
        chunk = libsvm.parse(b"\n".join(lines) + b"\n", rules)
        if chunk.bad_lines:
            first = chunk.bad_lines[0]
            raise DataError(f"{display_name}:{numbers[first.number]}: {first.fault.text}")
        yield numbers, chunk.inputs.reshape(-1, *rules.shape)


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
