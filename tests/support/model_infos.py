"""Descriptions of models that need not exist."""

from pathlib import Path

from pipelines.data.table.schema import ReadingRules
from pipelines.score.model_info import ModelInfo

MNIST = ModelInfo(
    uri="runs:/1/model",
    path=Path(),
    version="",
    run_id="1",
    image_shape=(28, 28, 1),
    num_classes=10,
    labels=tuple(range(10)),
    class_names=tuple("0123456789"),
    value_range=(0.0, 255.0),
    dataset="mnist",
    table_digest="abc",
    picture_form="digit",
    reading=ReadingRules(source="libsvm"),
)
