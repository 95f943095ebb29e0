"""The table format: what ingest writes, and what streaming, scoring and users can rely on.

A table is a folder of plain Parquet files, partitioned by `split`, with a manifest. The manifest is written last: a folder
without one is not a table. Each file has one row group, and all files of a split except the last have the same number of rows.
Rejected lines of the source are in a separate Parquet table in the same folder (`REJECTED_FOLDER`), hashes of the training rows
in a file (`TRAINING_ROWS_NAME`).
"""

import dataclasses
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import DataError
from pipelines.system.fingerprint import json_sha256

SCHEMA_VERSION = 2
# Spark and pyarrow skip names with a leading underscore, so these can be next to the data.
MANIFEST_NAME = "_manifest.json"
REJECTED_FOLDER = "_rejected"
TRAINING_ROWS_NAME = "_training_rows.npy"

IMAGE_COLUMN = "image"  # binary: height x width x channels values, row-major, little-endian, of the manifest's dtype
FEATURES_COLUMN = "features"  # binary, in its place: the features of a row that is no picture
LABEL_COLUMN = "label"  # int32: position of the label in the manifest's `labels`
TARGET_COLUMN = "target"  # binary, in its place: one float32 for each of the manifest's `target_names`
WEIGHT_COLUMN = "weight"  # float32: how much a row counts, if the manifest says `weighted`
SPLIT_COLUMN = "split"  # string, the partition column

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Dtype = Literal["uint8", "float32"]
Task = Literal["classification", "regression"]
Scaling = Literal["range", "standardize", "none"]
BYTES_PER_VALUE: dict[Dtype, int] = {"uint8": 1, "float32": 4}

# The manifest is untrusted input: a path in it must not leave the table's folder.
_FILE_PATH = re.compile(rf"{SPLIT_COLUMN}=({'|'.join(SPLITS)})/part-\d{{5,}}\.parquet")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a row of a table holds."""

    shape: tuple[int, ...]
    """Height, width, channels of a picture; the number of features of a row that is no picture."""
    dtype: Dtype
    value_range: tuple[float, float]
    """Smallest and largest value allowed in the source, for example 0 and 255; or those of the training rows (`checks_range`)."""
    checks_range: bool = True
    """Other values than those in `value_range` are malformed. False if the range was read from the training rows."""
    task: Task = "classification"
    """What is predicted: one of several classes, or numbers."""
    scaling: Scaling = "range"
    """What networks do with the values first: scale `value_range` to 0..1, subtract `means` and divide by `deviations`, or
    nothing."""
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    """Mean and standard deviation over the training rows, by feature or by channel of a picture; empty unless scaling is
    `standardize`. The deviation of what is constant is 1."""

    @property
    def is_picture(self) -> bool:
        return len(self.shape) == 3

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
    """SHA-256 of the file as written, verified when it is read to detect changed bits."""


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    rows: int
    rows_per_label: tuple[int, ...]
    """Rows by class index; empty for regression."""
    files: tuple[TableFile, ...]
    """Files in path order, which is row order."""

    @property
    def digest(self) -> str:
        """Digest of the content: splits with the same rows in the same files have the same digest, in any table."""
        return json_sha256({"files": [file.sha256 for file in self.files]})[:12]


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    uri: str
    split: Split
    num_bytes: int
    sha256: str
    rows: int
    rejected_rows: int
    version: str = ""
    """Version of a Delta table; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class ReadingRules:
    """How the rows were read from their source. A model trained on them reads its input in the same way."""

    source: Literal["libsvm", "pictures", "table"]
    zero_based: bool = False
    """Indices of libsvm text start at 0."""
    resize_pictures: bool = False
    columns: dict[str, Any] = field(default_factory=dict, hash=False)
    """The setting `data.columns` for the rows of a Spark table."""


@dataclass(frozen=True, kw_only=True)
class TableManifest:
    """Contents and origin of a table."""

    dataset: str
    spec: DataSpec
    labels: tuple[int, ...]
    """Label values as written in the source; the table stores positions in this tuple. Empty for regression."""
    class_names: tuple[str, ...]
    splits: dict[Split, SplitSummary]
    sources: tuple[SourceFile, ...]
    seed: int
    rejected_rows: int
    """Malformed lines excluded from the table."""
    rejected_by_reason: dict[str, int]
    note: str
    """What the user must know about the data, for example that it is a substitute. Often empty."""
    key: str
    """SHA-256 of sources and settings. Tables with the same key have the same rows in the same order."""
    created_at: str
    convoy_version: str
    reading: ReadingRules | None = None
    """None in tables that were written before it was recorded."""
    training_rows_sha256: str = ""
    """SHA-256 of the file with the hashes of the training rows (`pipelines.data.table.row_hashes`); empty in such tables, too."""
    target_names: tuple[str, ...] = ()
    """Names of the numbers that a regression predicts."""
    target_means: tuple[float, ...] = ()
    target_deviations: tuple[float, ...] = ()
    """Mean and standard deviation of each target over the training rows. The deviation of what is constant is 1."""
    weighted: bool = False
    """Rows have weights."""
    schema_version: int = SCHEMA_VERSION

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def num_outputs(self) -> int:
        """How many numbers a network predicts for a row: the probability of each class, or each target."""
        return len(self.labels or self.target_names)

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
        """Text with the SHA-256 of all else it says."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        return json.dumps({**values, "sha256": json_sha256(values)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str) -> "TableManifest":
        """Raises DataError naming `origin` if the text is not a manifest of this version."""
        try:
            raw: dict[str, Any] = json.loads(text)
            # Earlier tables have none.
            recorded = raw.pop("sha256", None)
            is_as_written = recorded in (None, json_sha256(raw))
            version = raw["schema_version"]
            if version != SCHEMA_VERSION:
                raise DataError(
                    f"{origin}: the table has schema version {version}, this program reads {SCHEMA_VERSION}; "
                    "delete the folder and ingest again"
                )
            reading = raw.pop("reading", None)
            # Tables of versions that knew pictures alone.
            spec = raw.pop("spec") if "spec" in raw else raw.pop("image")
            manifest = cls(
                spec=_data_spec(spec),
                labels=tuple(raw.pop("labels")),
                class_names=tuple(raw.pop("class_names")),
                target_names=tuple(raw.pop("target_names", ())),
                target_means=tuple(raw.pop("target_means", ())),
                target_deviations=tuple(raw.pop("target_deviations", ())),
                splits={name: _split_summary(split) for name, split in raw.pop("splits").items()},
                sources=tuple(SourceFile(**source) for source in raw.pop("sources")),
                reading=ReadingRules(**reading) if reading is not None else None,
                **raw,
            )
            _check(manifest)
            _require(is_as_written, "some of its bytes have changed")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise DataError(f"{origin}: not a table manifest ({error}); delete the folder and ingest again") from error
        return manifest


@dataclass(frozen=True)
class Table:
    """A table on disk: its folder (any form that `paths` accepts) and its manifest."""

    uri: str
    manifest: TableManifest


def read_manifest(folder: Path) -> TableManifest | None:
    """The manifest of the table in `folder`, or None if there is no table.

    Raises:
        DataError: the manifest cannot be read or is not one of this version.
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
    """Raises ValueError if the manifest is inconsistent or violates the format, so that no one else needs to check."""
    spec = manifest.spec
    _require(spec.dtype in BYTES_PER_VALUE, f"dtype {spec.dtype!r}")
    is_shape = len(spec.shape) in (1, 3) and all(isinstance(size, int) and size >= 1 for size in spec.shape)
    _require(is_shape, f"shape {spec.shape}")
    _require(len(spec.value_range) == 2, f"value_range {spec.value_range}")
    _require(spec.task in typing.get_args(Task), f"task {spec.task!r}")
    _require(spec.scaling in typing.get_args(Scaling), f"scaling {spec.scaling!r}")
    statistics = spec.shape[-1] if spec.scaling == "standardize" else 0
    _require(len(spec.means) == len(spec.deviations) == statistics, "means and deviations")
    _require(all(deviation > 0 for deviation in (*spec.deviations, *manifest.target_deviations)), "a deviation is not positive")
    _require(isinstance(manifest.key, str) and isinstance(manifest.dataset, str), "key and dataset must be text")
    _require(len(manifest.labels) == len(manifest.class_names), "labels and class_names differ in number")
    is_regression = spec.task == "regression"
    _require(len(manifest.labels) >= 2 or is_regression, f"{len(manifest.labels)} labels")
    _require(bool(manifest.labels) != is_regression, "labels of a regression")
    _require(bool(manifest.target_names) == is_regression, f"target_names of task {spec.task}")
    of_targets = (manifest.target_names, manifest.target_means, manifest.target_deviations)
    _require(len({len(each) for each in of_targets}) == 1, "target_names, target_means and target_deviations differ in number")
    _require(manifest.rejected_rows == sum(manifest.rejected_by_reason.values()), "rejected_rows is not the sum of its reasons")
    _require(manifest.reading is None or manifest.reading.source in ("libsvm", "pictures", "table"), "reading.source")
    _require(isinstance(manifest.training_rows_sha256, str), "training_rows_sha256 must be text")
    _require(set(manifest.splits) <= set(SPLITS), f"splits {list(manifest.splits)}")
    for name, split in manifest.splits.items():
        for file in split.files:
            match = _FILE_PATH.fullmatch(file.path)
            _require(match is not None and match.group(1) == name, f"{file.path!r} is not the path of a file of split {name}")
            _require(file.rows >= 1, f"{file.path} has {file.rows} rows")
        file_paths = [file.path for file in split.files]
        _require(file_paths == sorted(set(file_paths)), f"the files of split {name} are not in order")
        _require(split.rows == sum(file.rows for file in split.files), f"rows of split {name} are not the sum of its files")
        _require(is_regression or split.rows == sum(split.rows_per_label), f"rows of split {name} are not the sum of its labels")
        _require(len(split.rows_per_label) == len(manifest.labels), f"rows_per_label of split {name}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def format_counts(by_reason: Mapping[str, int]) -> str:
    """Counts by reason, most frequent first: `9 label_unknown, 3 index_zero`."""
    ordered = sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def _data_spec(raw: dict[str, Any]) -> DataSpec:
    tuples = ("shape", "value_range", "means", "deviations")
    return DataSpec(**raw | {name: tuple(raw[name]) for name in tuples if name in raw})


def _split_summary(raw: dict[str, Any]) -> SplitSummary:
    return SplitSummary(
        rows=raw["rows"],
        rows_per_label=tuple(raw["rows_per_label"]),
        files=tuple(TableFile(**file) for file in raw["files"]),
    )
