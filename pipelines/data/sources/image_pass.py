"""Decoding of pictures in Spark's Python workers, the counterpart of `text_pass` for text."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.config import DataConfig
from pipelines.data.formats import digits, image_file
from pipelines.data.formats.chunk import BadLine, Chunk, Fault
from pipelines.data.sources.parsed_rows import PARSED_COLUMNS, BlockReport, chunk_batches, report_batch
from pipelines.system import connect

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# A path need not be UTF-8.
_COLUMNS = "file int, block bigint, paths array<binary>, labels array<int>"
# Limits of what a worker holds decoded at once.
_VALUES_PER_BLOCK = 2**24
_PICTURES_PER_BLOCK = 512
_BYTES = (0.0, 255.0)


@dataclass(frozen=True, kw_only=True)
class PictureRules:
    """What a picture must be."""

    shape: tuple[int, int, int]
    value_range: tuple[float, float]
    """Values of black and white."""
    resize: bool
    """Whether pictures of another size are resized to `shape`."""
    as_digits: bool = False
    """Whether pictures are converted to MNIST's format."""

    @classmethod
    def from_config(cls, data: DataConfig, *, as_digits: bool) -> "PictureRules":
        height, width, channels = data.image_shape
        value_range = data.allowed_range if data.value_range != "auto" else _BYTES
        return cls(shape=(height, width, channels), value_range=value_range, resize=data.resize_pictures, as_digits=as_digits)


def parsed(
    spark: "SparkSession",
    folders: Sequence[tuple[Path, Sequence[tuple[str, int]]]],
    rules: PictureRules,
    keep_bad: bool,
    images_apart: bool,
) -> "DataFrame":
    """`PARSED_COLUMNS` of pictures. A block is a range of consecutive pictures, a "line" in it is one picture.

    Args:
        spark: the session.
        folders: each folder with the pictures in it: path below the folder, and label.
        rules: what a picture must be.
        keep_bad: keep files that are not valid pictures in the frame.
        images_apart: one image per Spark row.
    """
    step = max(1, min(_VALUES_PER_BLOCK // math.prod(rules.shape), _PICTURES_PER_BLOCK))
    blocks = []
    for number, (folder, pictures) in enumerate(folders):
        for start in range(0, len(pictures), step):
            part = pictures[start : start + step]
            blocks.append((number, start, [os.fsencode(folder / name) for name, _ in part], [label for _, label in part]))
    frame = spark.createDataFrame(blocks, _COLUMNS).repartition(min(len(blocks), 4 * connect.parallelism(spark)))
    read = partial(read_blocks, rules=rules, keep_bad=keep_bad, images_apart=images_apart)
    return frame.mapInArrow(read, PARSED_COLUMNS)


def read_blocks(
    batches: Iterable[pa.RecordBatch], rules: PictureRules, keep_bad: bool, images_apart: bool
) -> Iterator[pa.RecordBatch]:
    """Map blocks of paths to images, with a report at the end of each block."""
    for batch in batches:
        for row in batch.to_pylist():
            report = BlockReport(row["file"], row["block"])
            chunk = read_chunk([os.fsdecode(path) for path in row["paths"]], row["labels"], rules)
            yield from chunk_batches(chunk, report, keep_bad, images_apart)
            yield report_batch(report)


def read_chunk(files: Sequence[str], labels: Sequence[int], rules: PictureRules) -> Chunk:
    """Read pictures. Invalid ones do not raise but are part of the result."""
    images: list[npt.NDArray[Any]] = []
    lines: list[int] = []
    bad: list[BadLine] = []
    for number, file in enumerate(files):
        content = b""
        try:
            content = Path(file).read_bytes()
            picture = image_file.decode(content)
            images.append(digits.convert(picture, rules.shape, digits=rules.as_digits, resize=rules.resize))
            lines.append(number)
        except OSError as error:
            bad.append(BadLine(number, content, Fault("picture_not_readable", f"cannot be read ({error.strerror or error})")))
        except image_file.WrongSize as error:
            text = digits.size_fault(error, rules.shape, of_model=False)
            bad.append(BadLine(number, content, Fault("picture_of_wrong_size", text)))
        except image_file.NoImage as error:
            bad.append(BadLine(number, content, Fault("not_a_picture", ascii(str(error))[1:-1])))
    stacked = np.stack(images) if images else np.empty((0, *rules.shape), np.uint8)
    values = stacked.reshape(len(images), -1)
    return Chunk(
        num_lines=len(files),
        inputs=values if rules.value_range == _BYTES else image_file.scale_to(values, rules.value_range),
        targets=np.asarray(labels, np.int32)[lines],
        lines=np.asarray(lines, np.int64),
        bad_lines=tuple(bad),
    )
