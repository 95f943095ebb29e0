"""What a file that the user names holds: libsvm text, Parquet or a picture."""

from pathlib import Path
from typing import Literal

from pipelines.data.formats import image_file
from pipelines.data.formats.libsvm import is_libsvm

FileKind = Literal["libsvm", "parquet", "picture"]
_PARQUET_MAGIC = b"PAR1"


def file_kind(path: Path) -> FileKind:
    """By the ending of the name, or else by the first bytes. A file that is neither Parquet nor a picture is text.

    Raises:
        OSError: the file cannot be read.
    """
    if is_libsvm(path):
        return "libsvm"
    if path.suffix.lower() in image_file.ENDINGS:
        return "picture"
    if path.suffix == ".parquet":
        return "parquet"
    with path.open("rb") as file:
        head = file.read(image_file.SIGNATURE_BYTES)
    if head.startswith(_PARQUET_MAGIC):
        return "parquet"
    return "picture" if image_file.has_signature(head) else "libsvm"
