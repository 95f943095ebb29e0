"""What the image column of an input holds, decided once for all rows by the kind of input, the type or the first bytes."""

from collections.abc import Sequence

from pipelines.data.formats.image_format import Content, ImageFormat
from pipelines.data.sources.column_types import column_kind
from pipelines.data.sources.frames import content_of
from pipelines.score.batch.inputs import Kind
from pipelines.score.batch.scoring import ScoringInput

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
    return content_of(rows.frame, rows.image, column_kind(rows.frame.schema[rows.image].dataType.jsonValue()), target)


def describe(columns: Sequence[str], content: Content) -> str:
    """A line for the user."""
    if len(columns) > 1:
        return f"columns {', '.join(columns)} hold features"
    return f"column {columns[0]} holds {_DESCRIPTIONS[content]}"
