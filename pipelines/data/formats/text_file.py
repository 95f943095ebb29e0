"""Checks of a source file: whether Spark can read it as text, and where a damaged file breaks off."""

import bz2
import gzip
import zlib
from pathlib import Path

from pipelines.errors import DataError
from pipelines.system import paths

# Magic numbers of formats often mistaken for text (https://en.wikipedia.org/wiki/List_of_file_signatures).
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
_ENDINGS = {"gzip": ".gz", "bzip2": ".bz2"}
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "UTF-8 with a byte order mark"}
_HEAD_BYTES = 4096
# Every bzip2 stream ends with these 48 bits, a checksum of 32 bits, and up to 7 bits of padding.
_BZ2_END = 0x177245385090
_BZ2_TAIL_BYTES = 11


def check(uri: str) -> None:
    """Check the first and last bytes of a file.

    Raises:
        DataError: the file is empty, compressed differently from what its ending says, truncated, or not UTF-8.
    """
    path = paths.to_python(uri)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        compression = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
        ending = path.suffix if path.suffix in _ENDINGS.values() else ""
        if not head:
            raise DataError(f"{uri}: the file is empty; a row is a line 'label index:value index:value ...'")
        expected = _ENDINGS.get(compression)
        if compression and expected != ending:
            remedy = f"give it the ending {expected}" if expected else "decompress it, or use gzip or bzip2"
            raise DataError(f"{uri}: the file is compressed with {compression}, which its name does not say; {remedy}")
        if ending and not compression:
            raise DataError(f"{uri}: the file is not compressed as its ending {ending} says; rename it")
        if compression == "bzip2" and not _has_bz2_end(path) and (damage := _find_damage(path)):
            raise DataError(f"{uri}:{damage}; copy the file again")
        if compression:
            with _decompressed(path) as file:
                head = file.read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        damage = _find_damage(path)
        raise DataError(f"{uri}:{damage}; copy the file again" if damage else f"{uri}: cannot be read ({error})") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "")
    # In UTF-16 every second byte of ASCII text is zero. A single zero byte is a malformed line, not another encoding.
    if encoding or 4 * head.count(0) > len(head):
        name = encoding or "UTF-16 or binary (it contains zero bytes)"
        raise DataError(f"{uri}:1: the text is {name}; save the file as plain UTF-8")


def check_whole(uri: str) -> None:
    """Read a compressed file to its end, after Spark failed to: Spark names neither the file nor the position.

    Raises:
        DataError: the compressed data is truncated or damaged.
    """
    damage = _find_damage(paths.to_python(uri))
    if damage:
        raise DataError(f"{uri}:{damage}; copy the file again")


def _find_damage(path: Path) -> str | None:
    """`LINE: reason` if a compressed file is truncated or damaged; None if it is intact or not compressed."""
    if path.suffix not in _ENDINGS.values():
        return None
    line = 1
    try:
        with _decompressed(path) as file:
            # read1, because read discards what it has read when it raises, and with it the position.
            while piece := file.read1(2**16):
                line += piece.count(b"\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return f"{line}: the compressed data is truncated or damaged from here on ({error})"
    return None


def _decompressed(path: Path) -> gzip.GzipFile | bz2.BZ2File:
    return gzip.open(path) if path.suffix == ".gz" else bz2.open(path)


def _has_bz2_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _BZ2_TAIL_BYTES))
        tail = int.from_bytes(file.read(), "big")
    return any((tail >> (32 + unused)) & (2**48 - 1) == _BZ2_END for unused in range(8))
