"""Text files: whether they can be read, where a damaged one breaks off, and their lines in pieces."""

import bz2
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipelines.data.formats.image_file import has_signature
from pipelines.errors import DataError
from pipelines.system import paths

# Magic numbers of formats often mistaken for text (https://en.wikipedia.org/wiki/List_of_file_signatures).
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
_ENDINGS = {"gzip": ".gz", "bzip2": ".bz2"}
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "UTF-8 with a byte order mark"}
_HEAD_BYTES = 4096
# A quarter of a megabyte of text with its tokens fits the processor's cache: the fastest size measured from 128 KB to 4 MB.
TEXT_BYTES = 2**18
DENSE_BYTES = 32 * 2**20
"""Limits of the text that is parsed at once, and of the images parsed from it."""
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
        if head.startswith(b"PAR1") or has_signature(head):
            if head.startswith(b"PAR1"):
                raise DataError(f"{uri}: the file is Parquet, not text; --data parquet:{uri} reads it, with data.columns")
            raise DataError(f"{uri}: the file is a picture, not text; a row is a line 'label index:value index:value ...'")
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
    """Find out why Spark failed to read a file: Spark names neither the file nor the position.

    Raises:
        DataError: the compressed data is truncated or damaged, or the file has a checksum file from Hadoop.
    """
    path = paths.to_python(uri)
    damage = _find_damage(path)
    if damage:
        raise DataError(f"{uri}:{damage}; copy the file again")
    checksum = path.with_name(f".{path.name}.crc")
    if checksum.exists():
        raise DataError(
            f"{uri}: does not match its checksum file {checksum.name}; copy the file again, or delete the checksum file if the "
            "data was edited on purpose"
        )


def pieces(path: Path, num_values: int, start: int = 0, stop: int = -1) -> Iterator[bytes]:
    """The lines that begin in a part of a file, in pieces of bounded size in which every line ends in a newline.

    Args:
        path: plain, gz or bz2.
        num_values: number of values of an image.
        start: first byte.
        stop: the byte behind the last one, or -1 for the end of the file.

    Raises:
        OSError, EOFError, zlib.error: the file cannot be read, or is damaged.
    """
    most_lines = max(1, DENSE_BYTES // num_values)
    with path.open("rb") if path.suffix not in _ENDINGS.values() else _decompressed(path) as file:
        held = b""
        for block in _blocks(file, start, stop):
            held += block
            lines = held.count(b"\n")
            if lines <= most_lines:
                yield held
                held = b""
                continue
            ended = held.split(b"\n")
            whole = lines - lines % most_lines
            for first in range(0, whole, most_lines):
                yield b"\n".join([*ended[first : first + most_lines], b""])
            held = b"\n".join(ended[whole:])
        if held:
            yield held


def _blocks(file: BinaryIO | gzip.GzipFile | bz2.BZ2File, start: int, stop: int) -> Iterator[bytes]:
    """The lines that begin in a part of a file, some `TEXT_BYTES` at a time. Every line ends in a newline."""
    position = start
    if start:
        # The line that the byte before belongs to begins in the part before.
        file.seek(start - 1)
        position += len(file.readline()) - 1
    while stop < 0 or position < stop:
        block = file.read(TEXT_BYTES if stop < 0 else min(TEXT_BYTES, stop - position))
        if not block:
            return
        if not block.endswith(b"\n"):
            block += file.readline()
        position += len(block)
        yield block if block.endswith(b"\n") else block + b"\n"


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
