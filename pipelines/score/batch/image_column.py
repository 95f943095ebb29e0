"""What the image column of an input holds, decided once for all rows by the kind of input, the type or the first bytes."""

from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.data.formats import image_file
from pipelines.data.formats.arrow_images import Content, ImageFormat, binary_content
from pipelines.score.batch.inputs import Kind
from pipelines.score.batch.scoring import ScoringInput, quoted

_SAMPLE_ROWS = 100
_DESCRIPTIONS: dict[Content, str] = {
    "raw": "raw values",
    "encoded": "encoded pictures (PNG, JPEG, ...)",
    "lists": "lists of numbers",
}


def content(rows: ScoringInput, kind: Kind, target: ImageFormat) -> Content:
    """What the column holds. Reads the first bytes of some rows if the type leaves it open."""
    if kind in ("table", "libsvm"):
        return "raw"
    if kind == "images":
        return "encoded"
    if isinstance(rows.frame.schema[rows.image].dataType, T.ArrayType):
        return "lists"
    image = F.col(quoted(rows.image))
    sample = (
        rows.frame.where(image.isNotNull())
        .select(F.length(image).alias("length"), F.substring(image, 1, image_file.SIGNATURE_BYTES).alias("head"))
        .limit(_SAMPLE_ROWS)
        .collect()
    )
    return binary_content(((row.length, bytes(row.head)) for row in sample), target)


def describe(column: str, content: Content) -> str:
    """A line for the user."""
    return f"column {column} holds {_DESCRIPTIONS[content]}"
