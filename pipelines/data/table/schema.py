"""The table's contract: what ingest writes, what stream reads, what scoring and people can rely on.

A table is a folder of plain Parquet, partitioned by `split`, with a manifest beside the data. The manifest is written last:
a folder without one is not a table. One file holds one row group, and all files of a split but the last hold equally many rows.
Lines of the source that were set aside lie in a Parquet table of their own in the same folder (`REJECTED_FOLDER`).
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import DataError

SCHEMA_VERSION = 2
# Spark and pyarrow skip names that begin with an underscore, so these can lie among the data.
MANIFEST_NAME = "_manifest.json"
REJECTED_FOLDER = "_rejected"

IMAGE_COLUMN = "image"  # binary: height x width x channels values, row-major, little-endian, of the manifest's dtype
LABEL_COLUMN = "label"  # int32: position of the label in the manifest's `labels`
SPLIT_COLUMN = "split"  # string, the partition column

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Dtype = Literal["uint8", "float32"]
BYTES_PER_VALUE: dict[Dtype, int] = {"uint8": 1, "float32": 4}

# A manifest is data: a path in it must not lead out of the table's folder.
_FILE_PATH = re.compile(rf"{SPLIT_COLUMN}=({'|'.join(SPLITS)})/part-\d{{5,}}\.parquet")


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How to read the bytes of one image."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    dtype: Dtype
    value_range: tuple[float, float]
    """Smallest and largest value that the source may hold, for example 0 and 255."""

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_values * BYTES_PER_VALUE[self.dtype]


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """One Parquet file, which is one row group."""

    path: str
    """Relative to the table's folder: `split=S/part-N.parquet`."""
    rows: int
    num_bytes: int
    sha256: str
    """Of the file as it was written. Compared when the file is read, so that a changed bit is found."""


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    rows: int
    rows_per_label: tuple[int, ...]
    """By class index."""
    files: tuple[TableFile, ...]
    """In path order, which is the order of the rows."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    uri: str
    split: Literal["train", "test"]
    num_bytes: int
    sha256: str
    rows: int
    rejected_rows: int


@dataclass(frozen=True, kw_only=True)
class TableManifest:
    """What a table holds and where it came from."""

    dataset: str
    image: ImageSpec
    labels: tuple[int, ...]
    """Label values as the source writes them; the table stores the position in this tuple."""
    class_names: tuple[str, ...]
    splits: dict[Split, SplitSummary]
    sources: tuple[SourceFile, ...]
    seed: int
    rejected_rows: int
    """Malformed lines that were set aside."""
    rejected_by_reason: dict[str, int]
    note: str
    """Anything a user must know about the data, for example that it is a substitute. Empty otherwise."""
    key: str
    """SHA-256 over sources and settings: the same key means the same rows in the same order."""
    created_at: str
    convoy_version: str
    schema_version: int = SCHEMA_VERSION

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        return self.key[:12]

    @property
    def rejected_summary(self) -> str:
        """`12 malformed lines were set aside (9 label_unknown, 3 index_zero)`."""
        lines = f"{self.rejected_rows:,} malformed line{'s were' if self.rejected_rows != 1 else ' was'} set aside"
        return f"{lines} ({format_counts(self.rejected_by_reason)})"

    def rows(self, split: Split) -> int:
        return self.splits[split].rows if split in self.splits else 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str) -> "TableManifest":
        """Raises DataError naming `origin` when the text is not a manifest of this version."""
        try:
            raw: dict[str, Any] = json.loads(text)
            version = raw["schema_version"]
            if version != SCHEMA_VERSION:
                raise DataError(
                    f"{origin}: the table has schema version {version}, this program reads {SCHEMA_VERSION}; "
                    "delete the folder and ingest again"
                )
            image = raw.pop("image")
            manifest = cls(
                image=ImageSpec(
                    shape=_three(image["shape"]),
                    dtype=image["dtype"],
                    value_range=(image["value_range"][0], image["value_range"][1]),
                ),
                labels=tuple(raw.pop("labels")),
                class_names=tuple(raw.pop("class_names")),
                splits={name: _split_summary(split) for name, split in raw.pop("splits").items()},
                sources=tuple(SourceFile(**source) for source in raw.pop("sources")),
                **raw,
            )
            _check(manifest)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise DataError(f"{origin}: not a table manifest ({error}); delete the folder and ingest again") from error
        return manifest


@dataclass(frozen=True)
class Table:
    """A table on disk: its folder (any form that `paths` understands) and its manifest."""

    uri: str
    manifest: TableManifest


def read_manifest(folder: Path) -> TableManifest | None:
    """The manifest of the table in `folder`, or None when there is no table.

    Raises:
        DataError: there is one, but it cannot be read or is no manifest of this version.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the manifest cannot be read ({error}); delete the folder and ingest again") from error
    return TableManifest.from_json(text, str(path))


def _check(manifest: TableManifest) -> None:
    """Raises ValueError where the manifest contradicts itself or the contract, so that nothing later has to doubt it."""
    image = manifest.image
    _demand(image.dtype in BYTES_PER_VALUE, f"dtype {image.dtype!r}")
    _demand(all(isinstance(size, int) and size >= 1 for size in image.shape), f"shape {image.shape}")
    _demand(isinstance(manifest.key, str) and isinstance(manifest.dataset, str), "key and dataset must be text")
    _demand(len(manifest.labels) == len(manifest.class_names) >= 2, "labels and class_names must be equally many")
    _demand(manifest.rejected_rows == sum(manifest.rejected_by_reason.values()), "rejected_rows is not the sum of its reasons")
    _demand(set(manifest.splits) <= set(SPLITS), f"splits {list(manifest.splits)}")
    for name, split in manifest.splits.items():
        for file in split.files:
            match = _FILE_PATH.fullmatch(file.path)
            _demand(match is not None and match.group(1) == name, f"{file.path!r} is no path of a file of split {name}")
            _demand(file.rows >= 1, f"{file.path} has {file.rows} rows")
        in_order = [file.path for file in split.files]
        _demand(in_order == sorted(set(in_order)), f"the files of split {name} are not in order")
        _demand(split.rows == sum(file.rows for file in split.files), f"rows of split {name} are not the sum of its files")
        _demand(split.rows == sum(split.rows_per_label), f"rows of split {name} are not the sum of its labels")
        _demand(len(split.rows_per_label) == len(manifest.labels), f"rows_per_label of split {name}")


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def format_counts(by_reason: Mapping[str, int]) -> str:
    """`9 label_unknown, 3 index_zero`: the most frequent first."""
    ordered = sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def _three(values: list[int]) -> tuple[int, int, int]:
    height, width, channels = values
    return height, width, channels


def _split_summary(raw: dict[str, Any]) -> SplitSummary:
    return SplitSummary(
        rows=raw["rows"],
        rows_per_label=tuple(raw["rows_per_label"]),
        files=tuple(TableFile(**file) for file in raw["files"]),
    )
