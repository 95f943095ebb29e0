"""A source file as bytes: whether it is text that Spark can read as it stands, and where a damaged one breaks off."""

import bz2
import gzip
import zlib
from pathlib import Path

from pipelines.errors import DataError
from pipelines.system import paths

# First bytes of what is often taken for text (https://en.wikipedia.org/wiki/List_of_file_signatures).
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
_ENDINGS = {"gzip": ".gz", "bzip2": ".bz2"}
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "UTF-8 with a byte order mark"}
_HEAD_BYTES = 4096
# In front of every bzip2 stream's end: these 48 bits and a checksum of 32, then up to 7 bits to fill the byte.
_BZ2_END = 0x177245385090
_BZ2_TAIL_BYTES = 11


def check(uri: str) -> None:
    """Look at the first and last bytes of a file.

    Raises:
        DataError: the file is empty, packed otherwise than its ending says, cut short, or in an encoding other than UTF-8.
    """
    path = paths.to_python(uri)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        packed = next((name for mark, name in _PACKED.items() if head.startswith(mark)), "")
        ending = path.suffix if path.suffix in _ENDINGS.values() else ""
        if not head:
            raise DataError(f"{uri}: the file is empty; a row is a line 'label index:value index:value ...'")
        if packed and _ENDINGS.get(packed) != ending:
            remedy = (
                f"give it the ending {_ENDINGS[packed]}" if packed in _ENDINGS else "unpack it, or pack it with gzip or bzip2"
            )
            raise DataError(f"{uri}: the file is packed with {packed}, which its name does not say; {remedy}")
        if ending and not packed:
            raise DataError(f"{uri}: the file is not packed as its ending {ending} says; rename it")
        if packed == "bzip2" and not _has_bz2_end(path) and (place := _break(path)):
            raise DataError(f"{uri}:{place}; copy the file again")
        if packed:
            with _unpacked(path) as file:
                head = file.read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        place = _break(path)
        raise DataError(f"{uri}:{place}; copy the file again" if place else f"{uri}: cannot be read ({error})") from error
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    # ASCII in UTF-16 is zero in every second byte. A single one makes a bad line, not another encoding.
    if encoding or 4 * head.count(0) > len(head):
        found = encoding or "UTF-16 or binary (it holds zero bytes)"
        raise DataError(f"{uri}:1: the text is {found}; save the file as plain UTF-8")


def check_whole(uri: str) -> None:
    """Read all of a packed file. For when Spark could not: it does not say where, nor of which file.

    Raises:
        DataError: the packed data ends too early or is damaged.
    """
    place = _break(paths.to_python(uri))
    if place:
        raise DataError(f"{uri}:{place}; copy the file again")


def _break(path: Path) -> str | None:
    """`LINE: reason` where a packed file ends too early or is damaged; None when it is whole, or not packed."""
    if path.suffix not in _ENDINGS.values():
        return None
    line = 1
    try:
        with _unpacked(path) as file:
            # read1, because read drops what it has when an error comes, and with it the place.
            while piece := file.read1(2**16):
                line += piece.count(b"\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return f"{line}: the packed data breaks off or is damaged from here on ({error})"
    return None


def _unpacked(path: Path) -> gzip.GzipFile | bz2.BZ2File:
    return gzip.open(path) if path.suffix == ".gz" else bz2.open(path)


def _has_bz2_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _BZ2_TAIL_BYTES))
        tail = int.from_bytes(file.read(), "big")
    return any((tail >> (32 + unused)) & (2**48 - 1) == _BZ2_END for unused in range(8))
