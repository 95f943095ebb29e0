"""The table's contract: what ingest writes, what stream reads, what scoring and people can rely on.

A table is a folder of plain Parquet, partitioned by `split`, with a manifest beside the data. The manifest is written last:
a folder without one is not a table. One file holds one row group, and all files of a split but the last hold equally many rows.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import DataError

SCHEMA_VERSION = 1
# Spark and pyarrow skip names that begin with an underscore, so the manifest can lie among the data.
MANIFEST_NAME = "_manifest.json"

IMAGE_COLUMN = "image"  # binary: height x width x channels values, row-major, little-endian, of the manifest's dtype
LABEL_COLUMN = "label"  # int32: position of the label in the manifest's `labels`
SPLIT_COLUMN = "split"  # string, the partition column

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Dtype = Literal["uint8", "float32"]
BYTES_PER_VALUE: dict[Dtype, int] = {"uint8": 1, "float32": 4}


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
    """Relative to the table's folder."""
    rows: int


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
            return cls(
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
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{origin}: not a table manifest ({error}); delete the folder and ingest again") from error


@dataclass(frozen=True)
class Table:
    """A table on disk: its folder (any form that `paths` understands) and its manifest."""

    uri: str
    manifest: TableManifest


def read_manifest(folder: Path) -> TableManifest | None:
    """The manifest of the table in `folder`, or None when there is no table."""
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return TableManifest.from_json(text, str(path))


def table_key(identity: dict[str, Any]) -> str:
    """SHA-256 of everything that decides the rows of a table and their order."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _three(values: list[int]) -> tuple[int, int, int]:
    height, width, channels = values
    return height, width, channels


def _split_summary(raw: dict[str, Any]) -> SplitSummary:
    return SplitSummary(
        rows=raw["rows"],
        rows_per_label=tuple(raw["rows_per_label"]),
        files=tuple(TableFile(**file) for file in raw["files"]),
    )
