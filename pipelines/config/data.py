"""The settings of sections `data`, `ingest` and `stream`: what is read, and how."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.config.columns import Columns
from pipelines.config.rules import bounds, rule
from pipelines.system import spark_location

Task = Literal["classification", "regression"]
Scaling = Literal["range", "standardize", "none"]
OnBadRows = Literal["fail", "quarantine"]

# Networks multiply by the reciprocal of the range, in float32.
MAX_VALUE, MIN_RANGE = 1e37, 1e-30
MAX_VALUES_PER_IMAGE = 2**26
# Rows are stored and computed densely: 256 KB a row.
_MAX_FEATURES = 2**16
_BATCH = 128
_MAX_CLASSES = 2**16
_MAX_LABEL = 2**53
NAMED_DATASETS = ("mnist", "mnist-5k", "fashion-mnist")
"""Data sets that are known by name, which no path can take from them."""
_MAX_ROWS = 2**31 - 1
_MAX_MEGABYTES = 2**31 - 1
_SMALLEST_FRACTION = 1e-6


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the source contains. Nothing here is inferred from the data."""

    dataset: str = "mnist"
    """A name (mnist, mnist-5k, fashion-mnist), a libsvm file, a folder with a *train* and a *test* file, a folder of pictures
    (`pipelines.data.sources.image_folder`), or the URI of one of these; `table:NAME` or `FORMAT:PATH` for what Spark reads."""
    test_file: str = ""
    """The libsvm file with the test rows, if `dataset` is a single file. Empty: test rows are drawn from `dataset`."""
    columns: dict[str, Any] = field(default_factory=dict, hash=False)
    """Which columns of a Spark table hold what (`pipelines.config.columns`), for example {label: species, features: [a, b]}."""
    image_shape: tuple[int, ...] = (28, 28, 1)
    """Height, width, channels; their product is the number of libsvm features."""
    features: int = 0
    """The number of features, where rows are no pictures. 0: they are pictures of `image_shape`."""
    value_range: tuple[float, ...] | Literal["auto"] = (0.0, 255.0)
    """Smallest and largest value allowed. auto: any value is allowed, and the range is that of the training rows."""
    scaling: Scaling = "range"
    """What networks do with the values first. range: scale `value_range` to 0..1. standardize: subtract the mean of the training
    rows and divide by their standard deviation, by feature or by channel of a picture. none: take them as they are."""
    task: Task = "classification"
    """What is predicted: one of several classes, or numbers."""
    targets: int = 1
    """With task `regression`: how many numbers are predicted."""
    classes: int = 10
    labels: tuple[int, ...] = ()
    """Label values as written in the files. Empty: 0 to classes - 1."""
    class_names: tuple[str, ...] = ()
    """Display names, in the order of `labels`. Empty: the label values."""
    zero_based: bool = False
    """Feature indices start at 0 instead of libsvm's 1."""
    resize_pictures: bool = False
    """Resize all pictures of a folder to `image_shape`. Otherwise a picture of another size is a bad row."""
    wait_seconds: float = 3.0
    """How long to wait for a missing path: a mounted store can show a new file late. 0: do not wait."""

    def __post_init__(self) -> None:
        rule(
            len(self.source_columns.label) == 1 or self.task == "regression",
            "data.columns",
            self.columns,
            "with one label: only data.task=regression takes several columns",
        )
        rule(
            len(self.image_shape) == 3 and min(self.image_shape) >= 1,
            "data.image_shape",
            self.image_shape,
            "three positive numbers: height, width, channels, for example [28, 28, 1]",
        )
        rule(
            math.prod(self.image_shape) <= MAX_VALUES_PER_IMAGE,
            "data.image_shape",
            self.image_shape,
            f"of at most {MAX_VALUES_PER_IMAGE:,} values: height x width x channels",
        )
        megabytes = max(0, min(self.features, 10**18)) * 4 / 1e6
        rule(
            self.features <= _MAX_FEATURES,
            "data.features",
            self.features,
            f"at most {_MAX_FEATURES:,}: rows are stored with their zeros, so a row would take {megabytes:,.1f} MB and a batch "
            f"of {_BATCH} rows {_BATCH * megabytes:,.0f} MB; select features, or hash them into fewer",
        )
        bounds("data.features", self.features, 0, _MAX_FEATURES, "0 (pictures) or more")
        if self.value_range != "auto":
            self._check_value_range()
        bounds("data.targets", self.targets, 1, _MAX_CLASSES)
        is_regression = self.task == "regression"
        rule(
            is_regression or self.targets == 1,
            "data.targets",
            self.targets,
            "1 with data.task classification, which predicts one of data.classes",
        )
        for name in ("labels", "class_names"):
            value = getattr(self, name)
            rule(not is_regression or not value, f"data.{name}", value, "left out with data.task regression: it has no classes")
        bounds("data.classes", self.classes, 2, _MAX_CLASSES)
        rule(
            not self.labels or (len(self.labels) == self.classes and len(set(self.labels)) == self.classes),
            "data.labels",
            self.labels,
            f"{self.classes} different numbers (data.classes), or empty for 0 to {self.classes - 1}",
        )
        rule(
            all(abs(label) <= _MAX_LABEL for label in self.labels),
            "data.labels",
            self.labels,
            "numbers from -2^53 to 2^53, which a label read as floating point represents exactly",
        )
        bounds("data.wait_seconds", self.wait_seconds, 0, 600, "a number of seconds from 0 to 600")
        rule(
            not self.class_names or len(self.class_names) == self.classes,
            "data.class_names",
            self.class_names,
            f"{self.classes} names (data.classes), or empty",
        )
        twice = next((name for name in self.class_names if self.class_names.count(name) > 1), "")
        rule(not twice, "data.class_names", self.class_names, f"different names, but {twice!r} occurs twice")

    def _check_value_range(self) -> None:
        rule(
            len(self.value_range) == 2 and self.allowed_range[0] < self.allowed_range[1],
            "data.value_range",
            self.value_range,
            "two numbers, the smaller first, for example [0, 255]",
        )
        low, high = self.allowed_range
        rule(
            low <= 0 <= high or spark_location.parse(self.dataset) is not None,
            "data.value_range",
            self.value_range,
            "a range that includes 0, because libsvm omits zeros",
        )
        rule(
            max(-low, high) <= MAX_VALUE and high - low >= MIN_RANGE,
            "data.value_range",
            self.value_range,
            f"a range within {-MAX_VALUE:g} to {MAX_VALUE:g}, at least {MIN_RANGE:g} wide: networks divide by it in float32",
        )

    @property
    def source_columns(self) -> Columns:
        """The columns of a Spark table. Raises ConfigError if `columns` is not valid."""
        return Columns.of(self.columns)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return (self.features,) if self.features else self.image_shape

    @property
    def allowed_range(self) -> tuple[float, float]:
        """Smallest and largest value that a row may have."""
        if self.value_range == "auto":
            return -MAX_VALUE, MAX_VALUE
        low, high = self.value_range
        return float(low), float(high)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Label values by class index; empty for regression."""
        return self.labels or tuple(range(self.classes if self.task == "classification" else 0))

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the numbers that a regression predicts; empty for classification."""
        if self.task == "classification":
            return ()
        if self.columns and len(self.source_columns.label) == self.targets:
            return self.source_columns.label
        return ("target",) if self.targets == 1 else tuple(f"target_{number}" for number in range(1, self.targets + 1))

    @property
    def names(self) -> tuple[str, ...]:
        return self.class_names or tuple(str(label) for label in self.label_values)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How the table is written."""

    tables_uri: str = "tables"
    """The folder that holds the tables. All nodes write to it."""
    validation_fraction: float = 0.1
    """Share of the training rows set aside for validation; 0 for none."""
    test_fraction: float = 0.1
    """Share of the rows that becomes the test split, if the source has no test file."""
    seed: int = 1
    """Determines the order of the rows and which of them become validation rows."""
    rows_per_row_group: int = 0
    """Rows per row group, which is one file; 0: chosen by table size."""
    on_bad_rows: OnBadRows = "fail"
    """On a malformed line, fail the job or move the line to a separate table (`_rejected` in the table's folder)."""
    max_bad_fraction: float = 0.01
    """With `quarantine`: the largest share of a file's lines that may be malformed."""

    def __post_init__(self) -> None:
        bounds("ingest.validation_fraction", self.validation_fraction, 0, 0.5, "a number from 0 to 0.5")
        smallest = f"at least {_SMALLEST_FRACTION:g}: a run reports a test accuracy"
        bounds("ingest.test_fraction", self.test_fraction, _SMALLEST_FRACTION, 0.5, smallest)
        bounds("ingest.max_bad_fraction", self.max_bad_fraction, 0, 1 - _SMALLEST_FRACTION, "a number from 0 to below 1")
        bounds("ingest.rows_per_row_group", self.rows_per_row_group, 0, _MAX_ROWS, "0 (automatic) or more")
        bounds("ingest.seed", self.seed, -(2**63), 2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a worker reads its shard."""

    memory_limit_mb: int = 2048
    """A shard of up to this size (MB of stored values) is decoded once and kept in memory; a larger one is streamed."""
    shuffle_buffer_rows: int = 20_000
    """Rows in the shuffle buffer of a streaming worker; of features, at most as many as `memory_limit_mb` holds."""

    def __post_init__(self) -> None:
        bounds("stream.memory_limit_mb", self.memory_limit_mb, 0, _MAX_MEGABYTES, "0 (always stream) or more")
        bounds("stream.shuffle_buffer_rows", self.shuffle_buffer_rows, 1, _MAX_ROWS)
