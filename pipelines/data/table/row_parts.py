"""The parts of a row: its input, its target and, if rows are weighted, its weight. What each is, and where it is stored."""

import math
from dataclasses import dataclass
from typing import Literal

from pipelines.data.table.schema import (
    FEATURES_COLUMN,
    IMAGE_COLUMN,
    LABEL_COLUMN,
    TARGET_COLUMN,
    WEIGHT_COLUMN,
    DataSpec,
    TableManifest,
)

PartDtype = Literal["uint8", "int32", "float32"]


@dataclass(frozen=True)
class Part:
    """A part of a row. Those with a shape are stored as binary: values in row-major order, little-endian."""

    column: str
    shape: tuple[int, ...]
    dtype: PartDtype

    @property
    def is_binary(self) -> bool:
        return bool(self.shape)

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_values * (1 if self.dtype == "uint8" else 4)


def parts(spec: DataSpec, num_targets: int, *, weighted: bool) -> tuple[Part, ...]:
    """The parts in the order of Keras' `fit`: input, target, weight if there is one.

    Args:
        spec: what a row holds.
        num_targets: the numbers that a regression predicts; does not matter for classification.
        weighted: whether rows have weights.
    """
    inputs = Part(IMAGE_COLUMN if spec.is_picture else FEATURES_COLUMN, spec.shape, spec.dtype)
    is_regression = spec.task == "regression"
    target = Part(TARGET_COLUMN, (num_targets,), "float32") if is_regression else Part(LABEL_COLUMN, (), "int32")
    return (inputs, target, Part(WEIGHT_COLUMN, (), "float32")) if weighted else (inputs, target)


def of_table(manifest: TableManifest) -> tuple[Part, ...]:
    """The parts of the rows of a table."""
    return parts(manifest.spec, len(manifest.target_names), weighted=manifest.weighted)
